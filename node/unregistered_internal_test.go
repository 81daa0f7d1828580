package node

import (
	"fmt"
	"testing"

	"github.com/musterhq/muster/discovery/driver"
)

// Who is told that a node is not registered looks for missing rights. While the provider is
// away there is nothing to be found.
func TestUnregistered(t *testing.T) {
	for err, want := range map[error]WaitReason{
		fmt.Errorf("renew a lease: %w: no answer", driver.ErrUnavailable): WaitProvider,
		fmt.Errorf("register: %w: no right", driver.ErrDenied):            WaitRegistration,
		errNoAnswer: WaitRegistration,
	} {
		got := unregistered("provider etcd at e:1", err)
		if text := "waiting to be registered with provider etcd at e:1: " + err.Error(); got.reason != want || got.text != text {
			t.Errorf("%v: %+v, want %s", err, got, want)
		}
	}
}
