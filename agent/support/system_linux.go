package support

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	text := func(b []byte) string { b, _, _ = bytes.Cut(b, []byte{0}); return string(b) }
	return strings.Join([]string{text(u.Sysname[:]), text(u.Release[:]), text(u.Version[:])}, " ")
}

// clockSync asks the kernel whether something keeps the wall clock right.
func clockSync() map[string]any {
	var t unix.Timex
	state, err := unix.Adjtimex(&t) // which only reads, with no modes
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return map[string]any{
		"synchronized": state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0,
		"offset":       int64(t.Offset), "frequency": int64(t.Freq), "max_error_us": int64(t.Maxerror), "estimated_error_us": int64(t.Esterror), "status": t.Status,
	}
}

// limits are the resource limits of the process.
func limits() map[string]string {
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return nil
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(strings.TrimPrefix(line, "Max ")); strings.HasPrefix(line, "Max ") && len(f) >= 3 {
			for k := 1; k+1 < len(f); k++ {
				if number(f[k]) && number(f[k+1]) {
					all[strings.Join(f[:k], " ")] = fmt.Sprintf("%s, at most %s", f[k], f[k+1])
					break
				}
			}
		}
	}
	return all
}

func number(s string) bool { return s == "unlimited" || strings.Trim(s, "0123456789") == "" }
