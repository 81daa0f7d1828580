package clock

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
)

// ID names the boot clock that Now reads, as 16 hexadecimal digits: readings of two processes can
// be compared exactly if their clocks have the same id. It changes with each boot of the host, and
// says nothing about the host. It is empty if the system names no boot: then a clock can be
// compared with no other process's.
var ID = sync.OnceValue(func() string {
	boot := bootID()
	if boot == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("muster boot clock " + boot + faultID))
	return hex.EncodeToString(sum[:8])
})
