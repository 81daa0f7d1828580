// Package settings has what a node and its configuration agree on, so that a program which
// reads a configuration, as a registrar does, need not link a node.
package settings

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
)

// DefaultBind is the HOST:PORT of the one port unless node.bind says otherwise.
const DefaultBind = "0.0.0.0:7946"

// DefaultDataDir returns where a node keeps its state unless node.data_dir says
// otherwise: muster/<cluster>/<node id> below $XDG_STATE_HOME, or ~/.local/state
// where that is not set, or the system's place for such data on macOS and Windows.
// The directory is not made.
func DefaultDataDir(cluster, nodeID string) (string, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if base != "" && !filepath.IsAbs(base) {
		// It would be another place from each directory that the node is started in.
		return "", fmt.Errorf("cannot be defaulted: XDG_STATE_HOME is %q, which is no absolute path; write one, or name a directory", base)
	}
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("cannot be defaulted (%w); name a directory", err)
		}
		switch runtime.GOOS {
		case "darwin":
			base = filepath.Join(home, "Library", "Application Support")
		case "windows":
			if base = os.Getenv("LocalAppData"); base == "" {
				base = filepath.Join(home, "AppData", "Local")
			}
		default:
			base = filepath.Join(home, ".local", "state")
		}
	}
	// Names may hold what a path may not.
	return filepath.Join(base, "muster", url.PathEscape(cluster), url.PathEscape(nodeID)), nil
}
