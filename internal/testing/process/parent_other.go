//go:build !linux

package process

import "os/exec"

// dieWithParent has no equivalent here: a test process that is killed leaves its
// servers behind.
func dieWithParent(*exec.Cmd) {}
