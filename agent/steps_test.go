package agent

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/nodetest"
	"github.com/musterhq/muster/node/upgrade"
)

// A record of a step that cannot be read, as one of a later version, hides no other, and both wait
// for an operator. What is done does not.
func TestUnreadableStepHidesNoOther(t *testing.T) {
	n := nodetest.Start(t, 1).Master()
	for name, value := range map[string]string{
		"a-later": `{"what":"1.0","state":"postponed"}`, "b-garbage": "{", "c-stuck": `{"what":"1.0","state":"failed"}`,
		"d-done": `{"what":"1.0","state":"done"}`,
	} {
		if _, err := n.Store().Set(t.Context(), "upgrade/steps/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	s, stop := followSteps(n, slog.New(slog.DiscardHandler))
	defer stop()
	wait.For(t, "what is stuck is said", func() bool {
		return slices.Equal(slices.Sorted(slices.Values(s.alarms.Raised(stepStuck))), []string{"a-later", "b-garbage", "c-stuck"})
	})
	if all := s.status(); len(all) != 4 || all[2].Name != "c-stuck" || all[2].State != upgrade.Failed {
		t.Errorf("the steps: %+v", all)
	}
	for _, name := range []string{"a-later", "b-garbage", "c-stuck"} {
		if err := upgrade.Resolve(t.Context(), n.Store(), name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, "nothing is stuck", func() bool { return len(s.alarms.Raised(stepStuck)) == 0 })
}
