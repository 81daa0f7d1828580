package authorities

import (
	"math"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// A revision is opaque: outside of a space it goes through whole, whatever bits a provider uses.
// That of one space is none of another.
func TestRevisionsOfSpaces(t *testing.T) {
	for _, r := range []driver.Revision{1, 1 << 55, 1 << 56, math.MaxUint64} {
		if got, ours := (marker{}).untag(marker{}.tag(r)); got != r || !ours {
			t.Errorf("%x comes back as %x, %v", r, got, ours)
		}
	}
	for epoch := range uint64(3) {
		m := marker{Epoch: epoch + 1}
		if got, ours := m.untag(m.tag(7)); got != 7 || !ours {
			t.Errorf("epoch %d: 7 comes back as %d, %v", m.Epoch, got, ours)
		}
		if _, ours := m.untag(marker{Epoch: epoch}.tag(7)); ours {
			t.Errorf("epoch %d takes a revision of the one before", m.Epoch)
		}
		if got, ours := m.untag(0); got != 0 || !ours {
			t.Errorf("epoch %d: none comes back as %d, %v", m.Epoch, got, ours)
		}
	}
}
