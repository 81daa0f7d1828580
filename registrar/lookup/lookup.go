package lookup

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/within"
)

// Registry is what is asked. A *discovery.Registry is one.
type Registry interface {
	Watch(ctx context.Context, q discovery.Query) iter.Seq[discovery.Snapshot]
}

// Lookup says what to look for. Registry and Service are mandatory, and so is Tag for
// what tells this container from others. It is a value without state and safe for
// concurrent use.
type Lookup struct {
	// Registry is where the registrar writes. The caller closes it.
	Registry Registry
	// Service is the name of the service, without a port behind it.
	Service string
	// Tag is one that this container has and no other. Where the registry keeps no tags,
	// as format registrator in etcd, it stands for the name of the container.
	Tag string
	// MustHave are tags without which an entry does not count.
	MustHave []string
	// Ports are the ports of the container that are of interest. None: all, but of
	// those that stand under a name with a port behind it none is found.
	Ports []uint16
	// Protocol is tcp, udp or sctp. Empty: all.
	Protocol string
}

// ErrAmbiguous means that several containers have the tag that is to be one's own.
var ErrAmbiguous = errors.New("several containers have the tag")

// Me returns what is known of this container: the entries that have Tag and all of
// MustHave. It blocks until there is one for each of Ports, or one at all where Ports
// is empty; ctx bounds that. The error names what is missing and wraps the error of
// ctx, driver.ErrNotFound, and the last one of the registry, if there is any; one that
// no retry can fix is returned at once.
func (l Lookup) Me(ctx context.Context) ([]Mapping, error) {
	if l.Tag == "" {
		return nil, fmt.Errorf("%w: lookup of service %s: the tag is missing; name one that this container alone has", driver.ErrInvalid, l.Service)
	}
	return l.find(ctx, l.mine, func(found []Mapping, _ bool) bool {
		for _, port := range l.Ports {
			if !slices.ContainsFunc(found, func(m Mapping) bool { return m.ContainerPort == port }) {
				return false
			}
		}
		return len(found) > 0
	})
}

// Peers returns what is known of the other containers: the entries that do not have
// Tag, but all of MustHave. It blocks until the registry has answered, or ctx ends. That
// there is none is no error.
func (l Lookup) Peers(ctx context.Context) ([]Mapping, error) {
	if l.Tag == "" {
		return nil, fmt.Errorf("%w: lookup of service %s: the tag is missing; name one that this container alone has", driver.ErrInvalid, l.Service)
	}
	return l.find(ctx, func(m Mapping) bool { return !l.mine(m) }, answered)
}

// All returns what is known of all containers: the entries that have all of MustHave.
// It blocks as Peers does.
func (l Lookup) All(ctx context.Context) ([]Mapping, error) {
	return l.find(ctx, func(Mapping) bool { return true }, answered)
}

func answered(_ []Mapping, all bool) bool { return all }

func (l Lookup) mine(m Mapping) bool {
	return slices.Contains(m.Tags, l.Tag) || len(m.Tags) == 0 && m.Container == l.Tag
}

// names are those that the entries may stand under.
func (l Lookup) names() []string {
	names := []string{l.Service}
	for _, port := range l.Ports {
		names = append(names, l.Service+"-"+strconv.Itoa(int(port)))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// find watches all names until enough is found.
func (l Lookup) find(ctx context.Context, of func(Mapping) bool, enough func(found []Mapping, all bool) bool) ([]Mapping, error) {
	if l.Registry == nil || l.Service == "" {
		return nil, fmt.Errorf("%w: lookup: the registry or the service is missing", driver.ErrInvalid)
	}
	// A registry that ignores its context does not keep the caller.
	return within.Call(ctx, func(ctx context.Context) ([]Mapping, error) { return l.watchUntil(ctx, of, enough) })
}

func (l Lookup) watchUntil(ctx context.Context, of func(Mapping) bool, enough func(found []Mapping, all bool) bool) ([]Mapping, error) {
	names := l.names()
	last := make(map[string]discovery.Snapshot, len(names))
	for name, s := range watch(ctx, l.Registry, names) {
		last[name] = s
		if !s.Known && s.Err != nil && !driver.Retryable(s.Err) {
			return nil, fmt.Errorf("lookup of service %s: %w", name, s.Err)
		}
		if found := l.sift(last, of); enough(found, all(last, names)) {
			return found, nil
		}
	}
	return nil, l.missing(ctx, last)
}

// sift returns what matches of the entries that were made by a registrar.
func (l Lookup) sift(snapshots map[string]discovery.Snapshot, of func(Mapping) bool) []Mapping {
	found := []Mapping{}
	for _, s := range snapshots {
		instances, _ := s.Instances() // of one that is not known none is found yet
		for _, i := range instances {
			m, ok := mappingOf(i)
			switch {
			case !ok, !of(m),
				len(l.Ports) > 0 && !slices.Contains(l.Ports, m.ContainerPort),
				l.Protocol != "" && l.Protocol != m.Protocol,
				slices.ContainsFunc(l.MustHave, func(tag string) bool { return !slices.Contains(m.Tags, tag) }):
			default:
				found = append(found, m)
			}
		}
	}
	sortMappings(found)
	return found
}

func all(snapshots map[string]discovery.Snapshot, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !snapshots[name].Known })
}

// missing says what was not found, and what the registry has said last.
func (l Lookup) missing(ctx context.Context, last map[string]discovery.Snapshot) error {
	var reasons []error
	entries := 0
	for _, name := range l.names() {
		instances, _ := last[name].Instances()
		entries += len(instances)
		if err := last[name].Err; err != nil {
			reasons = append(reasons, err)
		}
	}
	if err := ctx.Err(); err != nil {
		reasons = append(reasons, err)
	} else {
		reasons = append(reasons, discovery.ErrClosed)
	}
	what := "no answer"
	answered := all(last, l.names())
	if answered {
		what = fmt.Sprintf("none of %d entries has", entries)
		if l.Tag != "" {
			what += fmt.Sprintf(" the tag %q and", l.Tag)
		}
		for _, tag := range l.MustHave {
			what += fmt.Sprintf(" the tag %q and", tag)
		}
		what += " the id of a registrar with port " + l.wanted()
	}
	text := fmt.Sprintf("lookup of service %s: %s", strings.Join(l.names(), " and "), what)
	return &notFound{text, errors.Join(reasons...), reasons, answered}
}

func (l Lookup) wanted() string {
	if len(l.Ports) == 0 {
		return "of any number"
	}
	ports := make([]string, len(l.Ports))
	for n, port := range l.Ports {
		ports[n] = strconv.Itoa(int(port))
	}
	text := strings.Join(ports, " or ")
	if l.Protocol != "" {
		text += "/" + l.Protocol
	}
	return text
}

// notFound is the error of a look-up that waited in vain, on one line.
type notFound struct {
	text    string
	wrapped error
	reasons []error

	answered bool // by the registry, which has no such entry
}

func (e *notFound) Error() string {
	text := e.text
	for _, reason := range e.reasons {
		text += ": " + reason.Error()
	}
	return text
}

func (e *notFound) Is(target error) bool { return target == driver.ErrNotFound }

func (e *notFound) Unwrap() error { return e.wrapped }

// watch yields what the registry says of each of names, until ctx ends or the watch of
// each has.
func watch(ctx context.Context, registry Registry, names []string) iter.Seq2[string, discovery.Snapshot] {
	return func(yield func(string, discovery.Snapshot) bool) {
		ctx, cancel := context.WithCancel(ctx)
		type update struct {
			name string
			discovery.Snapshot
		}
		updates := make(chan update)
		var watches sync.WaitGroup
		for _, name := range names {
			watches.Go(func() {
				for s := range registry.Watch(ctx, discovery.Query{Service: name}) {
					select {
					case updates <- update{name, s}:
					case <-ctx.Done():
					}
				}
			})
		}
		go func() {
			watches.Wait()
			close(updates)
		}()
		defer func() {
			cancel()
			for range updates { // until all watches have ended
			}
		}()
		for u := range updates {
			if !yield(u.name, u.Snapshot) {
				return
			}
		}
	}
}
