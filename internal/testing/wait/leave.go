package wait

import (
	"context"
	"errors"
	"testing"
)

// Leave takes a node out of its cluster. A step that ran out of its time is logged: on a busy
// machine it does, and the others take the node for one that has failed. Any other error fails
// the test.
func Leave(t testing.TB, leave func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	switch err := leave(ctx); {
	case errors.Is(err, context.DeadlineExceeded):
		t.Logf("Leave: %v", err)
	case err != nil:
		t.Errorf("Leave: %v", err)
	}
}
