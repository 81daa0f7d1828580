package advertise

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// zone is a resolver whose answers change.
type zone struct {
	mu    sync.Mutex
	addrs []netip.Addr
	err   error
	asked int
}

func (z *zone) set(err error, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addrs, z.err = nil, err
	for _, a := range addrs {
		z.addrs = append(z.addrs, netip.MustParseAddr(a))
	}
}

func (z *zone) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	return z.addrs, z.err
}

type event struct {
	addr string
	err  error
}

// follow collects what Watch yields. Its channel is closed when Watch ends.
func follow(ctx context.Context, spec string, o Options) <-chan event {
	events := make(chan event, 100)
	go func() {
		defer close(events)
		for a, err := range Watch(ctx, spec, netip.MustParseAddrPort("0.0.0.0:7946"), o) {
			events <- event{a.Addr, err}
		}
	}()
	return events
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var z zone
		notFound := &net.DNSError{Err: "no such host", IsNotFound: true}
		z.set(notFound)
		events := follow(ctx, "me.example:7946", Options{Resolver: &z})
		expect := func(addr string, failed bool) {
			t.Helper()
			synctest.Wait()
			select {
			case e := <-events:
				if e.addr != addr || (e.err != nil) != failed {
					t.Fatalf("got %q, %v, want %q, error: %v", e.addr, e.err, addr, failed)
				}
			default:
				t.Fatalf("nothing was yielded, want %q, error: %v", addr, failed)
			}
		}
		quiet := func() {
			t.Helper()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if len(events) > 0 {
				t.Fatalf("yielded without a change: %+v", <-events)
			}
		}

		expect("", true) // no address yet, and why
		quiet()
		if z.asked < 5 {
			t.Errorf("asked %d times in two minutes without an address, want it tried sooner than each interval", z.asked)
		}

		z.set(nil, "10.0.0.5", "10.0.0.9")
		time.Sleep(time.Minute)
		expect("10.0.0.5:7946", false)
		quiet()

		z.set(nil, "10.0.0.2", "10.0.0.5") // a newcomer is no better than what is in use
		quiet()

		z.set(notFound) // the last address stands
		time.Sleep(time.Minute)
		expect("10.0.0.5:7946", true)
		quiet() // the same failure is reported once

		z.set(nil, "127.0.1.1") // another failure is reported
		time.Sleep(time.Minute)
		expect("10.0.0.5:7946", true)

		z.set(nil, "10.0.0.5")
		time.Sleep(time.Minute)
		expect("10.0.0.5:7946", false) // good again

		z.set(nil, "10.0.0.2")
		time.Sleep(time.Minute)
		expect("10.0.0.2:7946", false)

		cancel()
		if e, open := <-events; open {
			t.Fatalf("yielded %+v after its context ended", e)
		}
	})
}

func TestWatchMovesToABetterInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		interfaces := []Interface{lo, up(3, "docker0", "172.17.0.1")}
		o := host{}.options()
		o.Interfaces = func() ([]Interface, error) {
			mu.Lock()
			defer mu.Unlock()
			return interfaces, nil
		}
		events := follow(ctx, "auto", o)
		if e := <-events; e.addr != "172.17.0.1:7946" || e.err != nil {
			t.Fatalf("at first %+v", e)
		}
		mu.Lock()
		interfaces = append(interfaces, up(4, "wlan0", "192.0.2.7"))
		mu.Unlock()
		if e := <-events; e.addr != "192.0.2.7:7946" || e.err != nil {
			t.Fatalf("with a network %+v", e)
		}
		mu.Lock()
		interfaces = append(interfaces, up(2, "eth0", "192.0.2.8"))
		mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(events) > 0 {
			t.Fatalf("left a good address for an equal one: %+v", <-events)
		}
	})
}

func TestWatchEndsWithWhatOnlyTheUserCanMend(t *testing.T) {
	events := follow(t.Context(), "atuo", Options{})
	if e := <-events; !errors.Is(e.err, driver.ErrInvalid) {
		t.Fatalf("yielded %+v, want an ErrInvalid", e)
	}
	if e, open := <-events; open {
		t.Fatalf("then yielded %+v, want the end", e)
	}
}

func TestWatchBoundsEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := Options{Timeout: 3 * time.Second, Resolver: resolverFunc(func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})}
		start := time.Now()
		events := follow(ctx, "me.example:7946", o)
		if e := <-events; !errors.Is(e.err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Fatalf("after %v: %+v, want the deadline of 3 s", time.Since(start), e)
		}
		cancel()
		<-events
	})
}
