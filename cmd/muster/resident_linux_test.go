package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Only what is of the file, cannot be written to, and equals it may be dropped: what differs would
// be lost.
func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-010b0000 r-xp 00000000 08:01 1234                               /usr/bin/a muster
Size:              13000 kB
Rss:               12000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
010b0000-01f20000 r--p 00cb0000 08:01 1234                               /usr/bin/a muster
Rss:               12000 kB
Anonymous:             4 kB
01f20000-01f30000 r--p 01b20000 08:01 1234                               /usr/bin/a muster
Anonymous:             0 kB
01f30000-01fd0000 rw-p 01b30000 08:01 1234                               /usr/bin/a muster
Anonymous:             0 kB
7f0000000000-7f0000010000 r--s 00000000 08:01 99                         /var/lib/muster/raft.db
Anonymous:             0 kB
7f0000020000-7f0000030000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
`
	got := cleanMappings(strings.NewReader(smaps), "/usr/bin/a muster")
	want := []mapping{{0x400000, 0x10b0000 - 0x400000}, {0x1f20000, 0x10000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if len(cleanMappings(file, self)) == 0 {
		t.Error("none of this program are found")
	}
}
