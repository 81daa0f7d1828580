package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// The hint fits what keeps a directory from being written.
func TestHintForTheDataDir(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&os.PathError{Op: "open", Path: "/x", Err: syscall.ENOSPC}, "make room"},
		{fmt.Errorf("write: %w", syscall.EDQUOT), "make room"},
		{&os.PathError{Op: "open", Path: "/x", Err: syscall.EROFS}, "mounted"},
		{&os.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, "make it a directory"},
		{errors.New("/x is no directory"), "make it a directory"},
	} {
		if got := dataDirHint(c.err); !strings.HasPrefix(got, c.want) && !strings.Contains(got, c.want) {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
