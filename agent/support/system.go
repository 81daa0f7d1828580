package support

import (
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/clock"
)

// System is what a host says of itself. Its JSON only gains fields.
type System struct {
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	Kernel     string `json:"kernel,omitempty"`
	Hostname   string `json:"hostname,omitempty"`
	CPUs       int    `json:"cpus"`
	GOMAXPROCS int    `json:"gomaxprocs"`
	UID        int    `json:"uid"`

	// Time is the wall clock, BootNS the boot clock of the name Clock.
	Time   time.Time `json:"time"`
	BootNS int64     `json:"t_boot_ns"`
	Clock  string    `json:"clock,omitempty"`
	// ClockSync says what the kernel knows of the wall clock.
	ClockSync map[string]any `json:"clock_sync,omitempty"`
	// Limits are those of this process, which need not be those of an agent.
	Limits map[string]string `json:"limits,omitempty"`
	// Files are small files of the kernel that say more: limits of the control group, the clock's
	// source, the load.
	Files map[string]string `json:"files,omitempty"`

	Interfaces []Interface `json:"interfaces"`
	// Error is why the interfaces are missing.
	Error string `json:"error,omitempty"`
}

// Interface is one of the network.
type Interface struct {
	Name      string   `json:"name"`
	Flags     string   `json:"flags"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses"`
}

// kernelFiles are read where there are such.
var kernelFiles = []string{
	"/proc/loadavg", "/proc/uptime", "/proc/self/cgroup", "/proc/self/timens_offsets", "/etc/os-release",
	"/sys/devices/system/clocksource/clocksource0/current_clocksource",
	"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu.stat",
	"/sys/fs/cgroup/pids.max", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory",
}

// ReadSystem asks the host.
func ReadSystem() System {
	s := System{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernel(), CPUs: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), UID: os.Getuid(),
		Time: time.Now().UTC(), BootNS: int64(clock.Now()), Clock: clock.ID(), ClockSync: clockSync(), Limits: limits(),
		Files: make(map[string]string), Interfaces: []Interface{},
	}
	s.Hostname, _ = os.Hostname()
	for _, name := range kernelFiles {
		if text, err := os.ReadFile(name); err == nil {
			s.Files[name] = strings.TrimSpace(string(text))
		}
	}
	found, err := net.Interfaces()
	if err != nil {
		s.Error = err.Error()
	}
	for _, i := range found {
		one := Interface{Name: i.Name, Flags: i.Flags.String(), MTU: i.MTU, Addresses: []string{}}
		addrs, err := i.Addrs()
		if err != nil {
			s.Error = err.Error()
		}
		for _, a := range addrs {
			one.Addresses = append(one.Addresses, a.String())
		}
		s.Interfaces = append(s.Interfaces, one)
	}
	return s
}
