package faults

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSoak runs for DURATION, with the choices of SEED, over PROVIDER (all, one after
// another, if it is not set): see make soak.
func TestSoak(t *testing.T) {
	text := os.Getenv("DURATION")
	if text == "" {
		t.Skip("a soak takes long: make soak DURATION=20m SEED=1")
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, provider := range providers() {
		t.Run(provider, func(t *testing.T) {
			if report := Soak(t, provider, seed(t), duration); report.Available < 0.9 {
				t.Errorf("there was a master %.2f %% of the time, want 90 %% at least", 100*report.Available)
			}
		})
	}
}

// providers are those that PROVIDER names.
func providers() []string {
	return strings.Split(cmp.Or(os.Getenv("PROVIDER"), "static,etcd,consul"), ",")
}

func seed(t testing.TB) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("SEED"), "1"), 10, 64)
	if err != nil {
		t.Fatalf("SEED: %v", err)
	}
	return n
}
