package clock

import (
	"os"
	"strings"
)

// bootID is the kernel's id of this boot, with the offset of the clock in the time namespace, if
// there is one.
func bootID() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	offsets, _ := os.ReadFile("/proc/self/timens_offsets") // none before Linux 5.6
	for line := range strings.Lines(string(offsets)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "boottime" && (f[1] != "0" || f[2] != "0") {
			return strings.TrimSpace(string(boot)) + " " + f[1] + " " + f[2]
		}
	}
	return strings.TrimSpace(string(boot))
}
