package netlab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// newTap makes a network device whose frames this process reads and writes. It is gone
// when it is closed.
func newTap(name string) (*os.File, error) {
	const device = "/dev/net/tun"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make network device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
