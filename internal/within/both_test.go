package within

import (
	"context"
	"testing"
)

func TestBoth(t *testing.T) {
	other, end := context.WithCancel(t.Context())
	ctx, done := Both(t.Context(), other)
	if ctx.Err() != nil {
		t.Error("it has ended before either")
	}
	end()
	<-ctx.Done()
	done()
	// A context that began after the end is over from the start, each time.
	for range 1000 {
		ctx, done := Both(t.Context(), other)
		if ctx.Err() == nil {
			t.Fatal("it goes on although the other has ended")
		}
		done()
	}
	ctx, done = Both(t.Context(), context.Background())
	done()
	if ctx.Err() == nil {
		t.Error("it goes on although it is done with")
	}
}
