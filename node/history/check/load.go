package check

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/musterhq/muster/node/history"
)

// maxRecords bounds how many records are kept, in about a kilobyte each. Of renewals that follow
// each other two are kept.
const maxRecords = 1_000_000

// maxViews bounds the bytes of the views that are kept, in the form of lines.
const maxViews = 1 << 30

// historyName is that of a history in a directory: as history.jsonl, and as what becomes of it when
// it is rotated.
var historyName = regexp.MustCompile(`\.(jsonl|history)([.-].*)?$`)

// Source is something that was read.
type Source struct {
	Name    string
	Records int
	history.Unreadable
	// Err is why the rest of it could not be read.
	Err error
}

// Loader reads histories, in bounded memory. The zero value is ready.
type Loader struct {
	Logs    []Log
	Sources []Source

	records int
	views   int
	text    map[string]string
}

// Files returns the names of the histories that a name stands for: itself, or in a directory those
// files whose name ends with .jsonl or .history, and what a rotation adds to that.
func Files(name string) ([]string, error) {
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && historyName.MatchString(e.Name()) {
			names = append(names, filepath.Join(name, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: there is no file in it whose name ends with .jsonl or .history", name)
	}
	return names, nil
}

// File reads one, which may be compressed by gzip. What cannot be read of it is in its Source; the
// error is of a file that cannot be opened, and of too many records.
func (l *Loader) File(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() && info.Mode()&os.ModeNamedPipe == 0 {
		return cmp.Or(err, fmt.Errorf("%s: neither a file nor a pipe", name))
	}
	defer context.AfterFunc(ctx, func() { _ = f.Close() })() // which ends a read of a pipe
	if err := l.Read(name, f); err != nil {
		return err
	}
	return ctx.Err()
}

// Read reads what r has, under a name. The error is of too many records.
func (l *Loader) Read(name string, r io.Reader) error {
	buffered := bufio.NewReader(r)
	var in io.Reader = buffered
	source := Source{Name: name}
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unpacked, err := gzip.NewReader(buffered)
		if err != nil {
			source.Err = err
			l.Sources = append(l.Sources, source)
			return nil
		}
		in = unpacked
	}
	log := Log{Host: name}
	members := make(map[string][]history.Member) // of the last view, by instance
	s := history.NewScanner(in)
	var full error
	for full == nil && s.Scan() {
		record := s.Record()
		l.share(&record, members)
		source.Records++
		if log.fold(record) {
			continue
		}
		log.Records = append(log.Records, record)
		if l.records++; l.records > maxRecords || l.views > maxViews {
			full = fmt.Errorf("%s: there are too many records, %d so far; leave out files that are older than the incident", name, l.records)
		}
	}
	source.Unreadable, source.Err = s.Unreadable(), s.Err()
	l.Logs, l.Sources = append(l.Logs, log), append(l.Sources, source)
	return full
}

// fold lets a renewal take the place of the last record where that and the one before are renewals
// of the same term, and reports whether it did.
func (l *Log) fold(r history.Record) bool {
	n := len(l.Records)
	if r.Kind != history.Renewed || n < 2 {
		return false
	}
	last, before := &l.Records[n-1], &l.Records[n-2]
	alike := last.Kind == history.Renewed && before.Kind == history.Renewed && last.InstanceID == r.InstanceID && before.InstanceID == r.InstanceID &&
		last.Term == r.Term && before.Term == r.Term && last.Clock == r.Clock && last.ClusterID == r.ClusterID
	if !alike || before.N == 0 || r.N != last.N+1 || r.BootNS < last.BootNS || r.BootNS >= last.DeadlineNS || r.DeadlineNS < last.DeadlineNS {
		return false
	}
	if l.Folded == nil {
		l.Folded = make(map[Number]uint64)
	}
	was := Number{r.InstanceID, last.N}
	if l.Folded[was] == 0 && (last.N != before.N+1 || last.BootNS >= before.DeadlineNS) {
		return false // what is wrong between the two stays
	}
	l.Folded[Number{r.InstanceID, r.N}] = l.Folded[was] + 1
	delete(l.Folded, was)
	*last = r
	return true
}

// share keeps one copy of what many records have.
func (l *Loader) share(r *history.Record, members map[string][]history.Member) {
	if l.text == nil {
		l.text = make(map[string]string)
	}
	for _, s := range []*string{&r.NodeID, &r.InstanceID, &r.Clock, &r.ClusterID, (*string)(&r.Kind), &r.Reason} {
		if known, ok := l.text[*s]; ok {
			*s = known
		} else if len(l.text) < 1<<16 {
			l.text[*s] = *s
		}
	}
	l.views += len(r.Events) * 100
	if r.View == nil {
		return
	}
	if last := members[r.InstanceID]; slices.Equal(last, r.View.Members) {
		r.View.Members = last
	} else {
		for _, m := range r.View.Members {
			l.views += 150 + len(m.NodeID) + len(m.InstanceID) + len(m.Addr)
		}
		members[r.InstanceID] = r.View.Members
	}
}

// Clusters returns the names of the clusters that the logs are of, in order.
func Clusters(logs []Log) []string {
	names := make(map[string]bool)
	for _, log := range logs {
		for _, r := range log.Records {
			if r.Cluster != "" {
				names[r.Cluster] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Select leaves out what is known to be of another cluster.
func Select(logs []Log, cluster string) []Log {
	other := make(map[string]bool) // instances
	for _, log := range logs {
		for _, r := range log.Records {
			if r.Cluster != "" && r.Cluster != cluster {
				other[r.InstanceID] = true
			}
		}
	}
	var left []Log
	for _, log := range logs {
		records := slices.DeleteFunc(slices.Clone(log.Records), func(r history.Record) bool { return other[r.InstanceID] })
		if len(records) > 0 {
			left = append(left, Log{Host: log.Host, Records: records, Folded: log.Folded})
		}
	}
	return left
}
