package advertise

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/mountinfo"
)

// systemIsolated looks at the files of this host.
func systemIsolated(lookupEnv func(string) (string, bool)) func(iface string) string {
	return func(iface string) string {
		if runtime.GOOS != "linux" {
			return "" // containers of other systems run Linux within
		}
		return isolated(os.DirFS("/"), lookupEnv, iface)
	}
}

// isolated says in what container with a network of its own iface is, or returns
// nothing. Being in a container is not enough: it may have the network of its host, or
// stand in the host's own network by macvlan or ipvlan. But the end of a pair whose
// other end is elsewhere, and a tunnel through a process as rootless engines make
// it, lead to a network that exists on one host alone.
func isolated(root fs.FS, lookupEnv func(string) (string, bool), iface string) string {
	mark := containerMark(root, lookupEnv)
	if mark == "" || iface == "" {
		return ""
	}
	device := path.Join("sys/class/net", iface)
	link, index := line(root, path.Join(device, "iflink")), line(root, path.Join(device, "ifindex"))
	how := ""
	switch {
	case exists(root, path.Join(device, "tun_flags")):
		how = "a tunnel"
	case link != "" && link != index && !strings.Contains(line(root, path.Join(device, "uevent")), "DEVTYPE="):
		how = "one end of a pair"
	default:
		return ""
	}
	return fmt.Sprintf("a container with a network of its own (%s; %s is %s)", mark, iface, how)
}

// machines are what calls itself a container and is a machine: its end of a pair may
// well lead into the network of all others.
var machines = []string{"lxc", "lxc-libvirt", "systemd-nspawn", "wsl"}

// containerMark is what shows that this process is in a container, or nothing.
func containerMark(root fs.FS, lookupEnv func(string) (string, bool)) string {
	for _, file := range []string{".dockerenv", "run/.containerenv"} {
		if exists(root, file) {
			return "/" + file
		}
	}
	if v, _ := lookupEnv("container"); v != "" && !slices.Contains(machines, v) { // as Podman sets it
		return "container=" + v
	}
	// The one sign that nerdctl leaves, and containerd with files of that kind, under cgroup v2.
	if b, err := fs.ReadFile(root, "proc/self/mountinfo"); err == nil && len(mountinfo.ContainerIDs(b)) > 0 {
		return "the mounts in /proc/self/mountinfo"
	}
	cgroup := line(root, "proc/1/cgroup")
	for _, tool := range []string{"docker", "containerd", "libpod", "kubepods", "crio"} {
		if strings.Contains(cgroup, tool) {
			return tool + " in /proc/1/cgroup"
		}
	}
	return ""
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Stat(root, name)
	return err == nil
}

// line is what a small file says, without the space around.
func line(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
