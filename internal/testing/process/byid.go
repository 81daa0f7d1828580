package process

import "os"

// KillID ends a process that another one started, by its id, as kill -9 does.
func KillID(pid int) error { return signalID(pid, (*os.Process).Kill) }

// PauseID stops such a process, as SIGSTOP does. The error is errors.ErrUnsupported where the
// system has no such signal.
func PauseID(pid int) error { return signalID(pid, pause) }

// ResumeID undoes PauseID.
func ResumeID(pid int) error { return signalID(pid, resume) }

func signalID(pid int, send func(*os.Process) error) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer p.Release()
	return send(p)
}
