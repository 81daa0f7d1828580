package clock

import "testing"

func TestNowNeverGoesBack(t *testing.T) {
	last := Now()
	for range 10_000 {
		now := Now()
		if now.Before(last) {
			t.Fatalf("went back from %v to %v", last, now)
		}
		last = now
	}
	if last <= 0 {
		t.Fatalf("Now() = %v, want more than 0", last)
	}
}
