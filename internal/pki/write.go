package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write writes the pair: the key for its owner alone, the certificate for all to
// read. Without force it changes no file that is there, and the error then wraps
// fs.ErrExist. With force each file is replaced as a whole, so that no reader gets half
// of one; between the two files of a pair there is a moment at which they do not
// belong together, which a node that follows them sits out.
func (p Pair) Write(certFile, keyFile string, force bool) error {
	if !force {
		for _, path := range []string{certFile, keyFile} {
			switch _, err := os.Lstat(path); {
			case err == nil:
				return fmt.Errorf("%s: %w", path, fs.ErrExist)
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
		}
	}
	if err := write(keyFile, p.Key, 0o600, force); err != nil {
		return err
	}
	return write(certFile, p.Cert, 0o644, force)
}

func write(path string, data []byte, mode fs.FileMode, force bool) (err error) {
	if !force {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // for its owner alone
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
