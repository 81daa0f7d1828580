package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/musterhq/muster/discovery"
)

const (
	// fewDescriptors is what a node should be allowed at least: three for each of some
	// hundred peers, and those of its providers.
	fewDescriptors = 1024
	// littleSpace and noSpace bound the room for the state of a voter.
	littleSpace = 256 << 20
	noSpace     = 16 << 20
)

// limits looks at what the system lets this process open.
func (r *run) limits(context.Context) []Finding {
	const name = "limits"
	most, known := descriptors()
	switch {
	case !known:
		return []Finding{ok(name, "this system does not limit open files")}
	case most < fewDescriptors:
		return []Finding{{name, Warn, fmt.Sprintf("%d open files are allowed", most), "raise the limit, by ulimit -n or LimitNOFILE=, to 4096 or more"}}
	}
	return []Finding{ok(name, "%d open files are allowed", most)}
}

// jobs looks for the programs of jobs. There is nothing to say where there are no jobs.
func (r *run) jobs(context.Context) []Finding {
	const name = "jobs"
	if len(r.Config.Jobs) == 0 {
		return nil
	}
	var found []Finding
	for _, err := range r.Config.MissingPrograms() {
		problem, how := split(err)
		found = append(found, Finding{name, Warn, problem, how})
	}
	if len(found) == 0 {
		return []Finding{ok(name, "%s: each program can be executed", counted(len(r.Config.Jobs), "job"))}
	}
	return found
}

// dataDir tries to write below node.data_dir. Only voters of a static list keep
// anything there.
func (r *run) dataDir(context.Context) []Finding {
	const name = "data_dir"
	dir := r.Config.Node.DataDir
	if dir == "" {
		return []Finding{{name, Fail, "node.data_dir is not set, and the environment says no place for it", "name a directory in node.data_dir, or set XDG_STATE_HOME or HOME"}}
	}
	at, err := existing(dir)
	if err == nil {
		err = tryWrite(at)
	}
	votes := slices.ContainsFunc(r.Node.Registries, func(registry *discovery.Registry) bool { return !registry.CanRegister() })
	switch {
	case err != nil && votes:
		return []Finding{{name, Fail, fmt.Sprintf("node.data_dir %s: %v", dir, err), dataDirHint(err)}}
	case err != nil:
		return []Finding{ok(name, "%s cannot be written (%v), and nothing needs it: only voters of a static list do", dir, err)}
	}
	where := dir
	if at != dir {
		where += ", which is to be made in " + at
	}
	free, known := freeSpace(at)
	switch {
	case !known:
		return []Finding{ok(name, "%s can be written", where)}
	case free < noSpace && votes:
		return []Finding{{name, Fail, fmt.Sprintf("%s: %d MiB are free", where, free>>20), "make room, or name another directory"}}
	case free < littleSpace:
		return []Finding{{name, Warn, fmt.Sprintf("%s: %d MiB are free", where, free>>20), "make room, or name another directory"}}
	}
	return []Finding{ok(name, "%s can be written, %d MiB are free", where, free>>20)}
}

// dataDirHint says how to fix a directory that cannot be written.
func dataDirHint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on its disk, or name another directory"
	case errors.Is(err, syscall.EROFS):
		return "have its file system mounted to be written, or name another directory"
	}
	return "make it a directory that this user may write, or name another"
}

// existing returns dir, or the nearest directory above that is there.
func existing(dir string) (string, error) {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case err == nil && info.IsDir():
			return at, nil
		case err == nil:
			return "", fmt.Errorf("%s is no directory", at)
		case !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at):
			return "", err
		}
	}
}

func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".muster-doctor-")
	if err != nil {
		return err
	}
	_, err = f.WriteString("muster doctor")
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}
