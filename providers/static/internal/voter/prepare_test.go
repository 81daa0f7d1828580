package voter

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/providers/static/internal/voterdir"
)

// TestPreparedForTheLongestLease: a voter whose TTL was shortened has on disk how long it
// may have given before, until it has kept quiet for as long.
func TestPreparedForTheLongestLease(t *testing.T) {
	t.Parallel()
	d, err := voterdir.Open(t.TempDir(), "test", "a:1", hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	i := d.Identity
	i.LongestLease = 10 * time.Second
	if err := d.SaveIdentity(i); err != nil {
		t.Fatal(err)
	}
	a := &Voter{cfg: Config{TTL: time.Second}, disk: directory{dir: d}}
	if err := a.prepare("a:1", part{founding: "f"}); err != nil {
		t.Fatal(err)
	}
	if d.LongestLease != 10*time.Second || d.Founding != "f" || d.ID != "a:1" {
		t.Errorf("on disk is %+v", d.Identity)
	}
	a.cfg.TTL = 20 * time.Second
	if err := a.prepare("a:1", part{founding: "f"}); err != nil || d.LongestLease != 20*time.Second {
		t.Errorf("a longer TTL is %v on disk, %v", d.LongestLease, err)
	}
}
