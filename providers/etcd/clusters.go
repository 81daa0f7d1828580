package etcd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/discovery/driver"
)

// Endpoints may be of several clusters of etcd, as where one of the list was left from another
// one. The client gives calls to each of them in turn, so that a lease is made in one cluster
// and looked for in the other, and two nodes may each become master in one.
//
// So all endpoints are asked for their cluster once the first has answered, and every answer is
// looked at for the cluster that it comes from; once one comes from another than that in use, all
// are asked again. Of several clusters the endpoints of one alone are used from then on: of that
// with the most endpoints, and of several with the same number of the one that is listed first, so
// that nodes with one list come to the same.
//
// The cluster in use is not given up because it cannot be reached, since it may have a master, but
// only once its endpoints answer as another one, as after etcd was set up again.

// clusters knows of which cluster the answers are.
type clusters struct {
	client *clientv3.Client // set before the first call
	all    []string         // the endpoints as configured

	// One asks for all who want to know. The client must not be given other endpoints while it
	// dials one, so both happen here alone.
	asking singleflight.Group

	mu    sync.Mutex
	home  uint64              // the cluster in use, 0 before the first answer
	mixed map[uint64][]string // the endpoints by cluster, if there are several

	seen    map[string]uint64 // the cluster that each endpoint was of when it last answered
	sawHome bool              // an endpoint was seen to be of the one in use
}

// statusTimeout bounds the question to one endpoint.
const statusTimeout = 2 * time.Second

// check returns an error if a reply is of another cluster than that in use. It may ask the
// endpoints for theirs.
func (c *clusters) check(ctx context.Context, reply any) error {
	r, ok := reply.(interface{ GetHeader() *pb.ResponseHeader })
	id := uint64(0)
	if ok {
		id = r.GetHeader().GetClusterId()
	}
	if id == 0 || c.isHome(id) {
		return nil
	}
	by, failed := c.ask(ctx) // without the lock, for which others wait that ask nothing
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.home == id {
		return nil
	}
	why := "of which no endpoint is any more"
	if len(by[c.home]) > 0 {
		why = c.text()
	} else if away := c.away(failed); away != "" {
		why = away
	}
	return status.Errorf(codes.Unavailable, "the answer is of cluster %x and not of %x: %s", id, c.home, why)
}

// isHome reports whether a cluster is the one in use, which the first that answers becomes.
func (c *clusters) isHome(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.home == 0 {
		c.home = id
		// Which endpoints are its own has to be known before they fail; and which cluster is used
		// of several, before much is done in the other.
		go c.ask(c.client.Ctx())
	}
	return c.home == id
}

// settle decides which cluster is used from now on, after the endpoints of each were asked for. It
// wants the lock held.
func (c *clusters) settle(by map[uint64][]string, failed error) {
	if c.home == 0 || len(by) == 0 || len(by[c.home]) == 0 && c.away(failed) != "" {
		return
	}
	known := make(map[uint64][]string) // those that do not answer count as what they were
	for _, endpoint := range c.all {
		if of := c.seen[endpoint]; of != 0 {
			known[of] = append(known[of], endpoint)
		}
	}
	c.home, c.mixed, c.sawHome = c.choose(known), nil, true
	if len(known) > 1 {
		c.mixed = known
	}
	var use []string
	for _, endpoint := range c.all {
		if of := c.seen[endpoint]; of == c.home || of == 0 {
			use = append(use, endpoint)
		}
	}
	if !slices.Equal(use, c.client.Endpoints()) {
		c.client.SetEndpoints(use...)
	}
}

// choose returns the cluster that is to be used of several.
func (c *clusters) choose(by map[uint64][]string) uint64 {
	before := func(a, b uint64) int {
		return cmp.Or(
			cmp.Compare(len(by[b]), len(by[a])),
			cmp.Compare(slices.Index(c.all, by[a][0]), slices.Index(c.all, by[b][0])),
		)
	}
	return slices.MinFunc(slices.Collect(maps.Keys(by)), before)
}

// away says why the cluster in use may still be there although no endpoint that answers is of it.
// It is empty if that is gone. It wants the lock held.
func (c *clusters) away(failed error) string {
	var known []string
	for _, endpoint := range c.all {
		if c.seen[endpoint] == c.home {
			known = append(known, endpoint) // and it does not answer
		}
	}
	switch {
	case len(known) > 0:
		return fmt.Sprintf("which cannot be reached at %s: %v; if they are gone for good, take them out of the endpoints", strings.Join(known, ", "), failed)
	case failed != nil && !c.sawHome:
		return fmt.Sprintf("which may be at an endpoint that does not answer: %v", failed)
	}
	return ""
}

// ask returns the endpoints of each cluster, without those that do not answer, for the reason
// in err. What it learns decides which cluster is used.
func (c *clusters) ask(ctx context.Context) (by map[uint64][]string, err error) {
	asked := c.asking.DoChan("", func() (any, error) { return c.askAll() })
	select {
	case r := <-asked:
		return r.Val.(map[uint64][]string), r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *clusters) askAll() (by map[uint64][]string, err error) {
	ctx, cancel := context.WithTimeout(c.client.Ctx(), statusTimeout)
	defer cancel()
	ids, errs := make([]uint64, len(c.all)), make([]error, len(c.all))
	var asking sync.WaitGroup
	for i, endpoint := range c.all {
		asking.Go(func() {
			r, err := c.client.Status(ctx, endpoint)
			if errs[i] = err; err == nil {
				ids[i] = r.Header.GetClusterId()
			}
		})
	}
	asking.Wait()
	by = make(map[uint64][]string)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, id := range ids {
		if errs[i] != nil {
			err = errs[i]
			continue
		}
		by[id] = append(by[id], c.all[i])
		c.seen[c.all[i]] = id
		c.sawHome = c.sawHome || id == c.home
	}
	c.settle(by, err)
	return by, err
}

// text says what is wrong. It wants the lock held, and is empty if nothing is.
func (c *clusters) text() string {
	if len(c.mixed) == 0 {
		return ""
	}
	return fmt.Sprintf("the endpoints are of several clusters of etcd, each with registrations and grants of its own: %s; %x is used alone. List the endpoints of one cluster",
		strings.Join(describeClusters(c.mixed), " and "), c.home)
}

func describeClusters(by map[uint64][]string) []string {
	var names []string
	for id := range maps.Keys(by) {
		names = append(names, fmt.Sprintf("cluster %x (%s)", id, strings.Join(by[id], ", ")))
	}
	slices.Sort(names)
	return names
}

// checkedStream looks at each answer of a stream.
type checkedStream struct {
	grpc.ClientStream
	clusters *clusters
}

// RecvMsg implements grpc.ClientStream.
func (s checkedStream) RecvMsg(reply any) error {
	if err := s.ClientStream.RecvMsg(reply); err != nil {
		return err
	}
	return s.clusters.check(s.Context(), reply)
}

// Warning implements driver.Warner.
func (d *Driver) Warning() string {
	c := &d.transport.clusters
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text()
}

// Identify implements driver.Identifier: it asks each endpoint for its cluster. One that does
// not answer is of none.
func (d *Driver) Identify(ctx context.Context) ([]string, error) {
	if d.closed.Load() {
		return nil, errClosed("ask the endpoints for their cluster")
	}
	by, err := d.transport.clusters.ask(ctx)
	if len(by) == 0 && err != nil {
		return nil, d.failed(ctx, "ask the endpoints for their cluster", err)
	}
	return describeClusters(by), nil
}

var (
	_ driver.Warner     = (*Driver)(nil)
	_ driver.Identifier = (*Driver)(nil)
)
