package node

import "github.com/musterhq/muster/internal/settings"

// DefaultBind is the HOST:PORT of the one port unless Config.Bind says otherwise.
const DefaultBind = settings.DefaultBind

// DefaultDataDir returns where a node keeps its state unless Config.DataDir says
// otherwise: muster/<cluster>/<node id> below $XDG_STATE_HOME, or ~/.local/state
// where that is not set, or the system's place for such data on macOS and Windows.
// The directory is not made.
func DefaultDataDir(cluster, nodeID string) (string, error) {
	return settings.DefaultDataDir(cluster, nodeID)
}
