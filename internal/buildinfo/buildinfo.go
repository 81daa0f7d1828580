// Package buildinfo says which version of this module a program was built from.
package buildinfo

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"sync"
)

// What the linker sets in a program of `make release`, because Go itself knows neither a version
// that has no tag yet nor, in a linked worktree of git, the commit.
var (
	releaseVersion  string // as v0.1.0
	releaseRevision string // the commit, in full
	releaseTime     string // that of the commit, by RFC 3339
)

const module = "github.com/musterhq/muster"

// Info is what is known of a build. Its JSON is that of `muster version -o json` and only gains
// fields.
type Info struct {
	// Version is that of this module, also in a program that embeds it: a release, a
	// pseudo-version, or "(devel)".
	Version string `json:"version"`
	// Revision, Time and Modified are those of the version control, where the
	// program was built from a checkout of this module.
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

var readOnce = sync.OnceValue(func() Info {
	build, _ := debug.ReadBuildInfo()
	return read(build)
})

// Read returns the Info of this program.
func Read() Info { return readOnce() }

// read returns the Info of a program with the build, nil if that is unknown.
func read(build *debug.BuildInfo) Info {
	i := Info{Version: "(devel)", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	switch {
	case build == nil:
	case build.Main.Path == module:
		i.Version = cmp.Or(build.Main.Version, i.Version)
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				i.Revision = s.Value
			case "vcs.time":
				i.Time = s.Value
			case "vcs.modified":
				i.Modified = s.Value == "true"
			}
		}
	default:
		for _, m := range build.Deps {
			if m.Path == module && m.Replace == nil {
				i.Version = cmp.Or(m.Version, i.Version)
			}
		}
	}
	i.Version = cmp.Or(releaseVersion, i.Version)
	i.Revision = cmp.Or(releaseRevision, i.Revision)
	i.Time = cmp.Or(releaseTime, i.Time)
	return i
}
