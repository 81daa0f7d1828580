package voter

import "testing"

// TestGiveBack: what this node gives back itself is reported, and a later term of which another
// says that it was given back is none that this node has given back.
func TestGiveBack(t *testing.T) {
	t.Parallel()
	v, m := &Voter{wakeup: make(chan struct{}, 1)}, &Member{}
	v.GiveBack(m, 5)
	select {
	case <-v.wakeup:
	default:
		t.Error("nobody is woken")
	}
	v.GiveBack(m, 4)
	v.noteReleased(m, 9)
	if !m.HasGivenBack(5) || m.HasGivenBack(6) {
		t.Errorf("given back: 5 %t, 6 %t", m.HasGivenBack(5), m.HasGivenBack(6))
	}
	if !m.WasReleased(9) || m.WasReleased(10) {
		t.Errorf("released: 9 %t, 10 %t", m.WasReleased(9), m.WasReleased(10))
	}
}
