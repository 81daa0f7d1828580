package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	git := []debug.BuildSetting{{Key: "vcs.revision", Value: "e376"}, {Key: "vcs.modified", Value: "true"}}
	for _, v := range []struct {
		name              string
		build             *debug.BuildInfo
		version, revision string
	}{
		{"unknown", nil, "(devel)", ""},
		{"the command", &debug.BuildInfo{Main: debug.Module{Path: module, Version: "v0.1.0"}, Settings: git}, "v0.1.0", "e376"},
		{"no version", &debug.BuildInfo{Main: debug.Module{Path: module}}, "(devel)", ""},
		{"embedded", &debug.BuildInfo{
			Main: debug.Module{Path: "example.com/orders", Version: "v7.0.0"}, Settings: git,
			Deps: []*debug.Module{{Path: "example.com/x", Version: "v9.0.0"}, {Path: module, Version: "v0.2.0"}},
		}, "v0.2.0", ""},
		{"embedded from a directory", &debug.BuildInfo{
			Main: debug.Module{Path: "example.com/orders", Version: "v7.0.0"},
			Deps: []*debug.Module{{Path: module, Version: "v0.0.0", Replace: &debug.Module{Path: "../muster"}}},
		}, "(devel)", ""},
	} {
		if i := read(v.build); i.Version != v.version || i.Revision != v.revision || i.Go == "" {
			t.Errorf("%s: %+v, want version %q and revision %q", v.name, i, v.version, v.revision)
		}
	}
}
