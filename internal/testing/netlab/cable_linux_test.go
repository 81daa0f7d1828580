package netlab

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a device and what it is connected to: each write is a frame.
func pair(t *testing.T) (device, peer *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	device, peer = os.NewFile(uintptr(fds[0]), "device"), os.NewFile(uintptr(fds[1]), "peer")
	t.Cleanup(func() { peer.Close() })
	return device, peer
}

func TestTrouble(t *testing.T) {
	host, a := pair(t)
	bridge, b := pair(t)
	c := lay(host, bridge)
	t.Cleanup(c.cut)
	send := func(from *os.File, frames ...string) {
		t.Helper()
		for _, f := range frames {
			if _, err := from.Write([]byte(f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	receive := func(at *os.File, n int) (frames []string) {
		t.Helper()
		_ = at.SetReadDeadline(time.Now().Add(20 * time.Second))
		buffer := make([]byte, maxFrame)
		for range n {
			n, err := at.Read(buffer)
			if err != nil {
				t.Fatalf("%v after %q", err, frames)
			}
			frames = append(frames, string(buffer[:n]))
		}
		return frames
	}

	send(a, "1", "2", "3")
	if got := receive(b, 3); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("a good cable carried %q", got)
	}

	const delay = 50 * time.Millisecond
	c.trouble.Store(&Trouble{Delay: delay})
	began := time.Now()
	send(b, "late")
	if got, took := receive(a, 1), time.Since(began); got[0] != "late" || took < delay {
		t.Errorf("%q came after %v, want it after %v", got, took, delay)
	}

	c.trouble.Store(&Trouble{Twice: 100})
	send(a, "x", "y")
	got := receive(b, 4)
	if slices.Sort(got); !slices.Equal(got, []string{"x", "x", "y", "y"}) {
		t.Errorf("%q came, want all twice", got)
	}

	c.trouble.Store(&Trouble{Jitter: 20 * time.Millisecond})
	var sent []string
	for i := range 100 { // that they come in order is as likely as 1 to 100!
		sent = append(sent, fmt.Sprintf("%03d", i))
	}
	send(a, sent...)
	got = receive(b, len(sent))
	if slices.Equal(got, sent) {
		t.Error("no frame overtook another")
	}
	if slices.Sort(got); !slices.Equal(got, sent) {
		t.Errorf("%q came of %q", got, sent)
	}
	if n := c.underWay.Load(); n > int64(len(sent)) || n < 0 {
		t.Errorf("%d frames are under way", n)
	}
}
