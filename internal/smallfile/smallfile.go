// Package smallfile reads files that are read again and again while a program runs, as those of
// certificates and secrets.
package smallfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Max is the size of the largest file that is read.
const Max = 1 << 20

// ErrNotRegular is returned of what cannot be read twice, or has no end.
var ErrNotRegular = errors.New("not a regular file, as it has to be read again; write the path of one")

// Read returns what the file holds. It does not block: a pipe that nobody writes to is refused, and
// so are directories, devices, and files that are larger than Max. Errors wrap an *fs.PathError.
func Read(path string) ([]byte, error) {
	refuse := func(err error) ([]byte, error) { return nil, &fs.PathError{Op: "read", Path: path, Err: err} }
	// Without O_NONBLOCK the open itself waits for somebody to write to a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return refuse(syscall.EISDIR)
	case !info.Mode().IsRegular():
		return refuse(ErrNotRegular)
	}
	data, err := io.ReadAll(io.LimitReader(f, Max+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > Max:
		return refuse(fmt.Errorf("longer than %d bytes", Max))
	}
	return data, nil
}
