package faults

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/checker"
	"github.com/musterhq/muster/internal/faultproxy"
	"github.com/musterhq/muster/node/history"
)

const delayedWay = faultproxy.Answers

// settleSlack is how much longer than the checker allows is waited for the cluster to
// recover: so that the checker, and not the wait, says what was late.
const settleSlack = 20 * time.Second

// steady is for how long the cluster has to be well before it counts as recovered.
const steady = time.Second

// Finish heals everything, waits until the cluster has recovered, stops all nodes, and
// checks what all of them recorded. Every violation fails the test.
func (l *Lab) Finish() checker.Report {
	l.t.Helper()
	l.Heal()
	return l.Verify()
}

// Verify is Finish where everything has been healed.
func (l *Lab) Verify() checker.Report {
	l.t.Helper()
	run := checker.Run{Bounds: l.bounds, Quiet: now()}
	l.logf("the last fault has healed")
	var since time.Time // what holds must go on to hold for a while
	limit := max(l.bounds.Master, l.bounds.Component, l.bounds.Registry) + settleSlack
	if l.broken {
		limit = 5 * time.Second // it may never recover
	}
	settled := l.within(limit, func(ctx context.Context) bool {
		well := l.agreed(ctx, l.running(), true) != nil
		if !l.listed(ctx, &run) || !well {
			since = time.Time{}
			return false
		}
		if since.IsZero() {
			since = time.Now()
		}
		return time.Since(since) >= steady
	})
	if !settled {
		l.logf("the cluster has not recovered: %s", l.describe())
	}
	run.End = now()
	var leaving sync.WaitGroup
	for _, h := range l.Hosts {
		leaving.Go(h.Stop)
	}
	leaving.Wait()
	l.background.Wait()
	if err := l.load(&run); err != nil {
		l.t.Error(err)
	}
	report := checker.Check(run)
	if !l.broken {
		l.report(report)
	}
	return report
}

// listed asks the registry, and reports whether it lists those that run.
func (l *Lab) listed(ctx context.Context, run *checker.Run) bool {
	if !l.store.has() {
		return true
	}
	ids, err := l.store.list(ctx)
	if err != nil {
		return false
	}
	run.Listings = append(run.Listings, checker.Listing{BootNS: now(), Instances: ids})
	var live []string
	for _, h := range l.running() {
		v, err := h.view(ctx)
		if err != nil {
			return false
		}
		for _, m := range v.Members {
			if m.Self {
				live = append(live, m.InstanceID)
			}
		}
	}
	slices.Sort(live)
	return slices.Equal(ids, live)
}

// load reads what all processes recorded, with the times put right where their clocks
// were wrong.
func (l *Lab) load(run *checker.Run) error {
	run.Applied = l.register.log()
	l.mu.Lock()
	run.Faults = slices.Concat(l.cuts, l.stalls)
	l.mu.Unlock()
	for _, h := range slices.Concat(l.Hosts, l.retired) {
		run.Lives = append(run.Lives, h.lives...)
		run.Faults = append(run.Faults, h.pauses...)
		log, err := h.readHistory()
		if err != nil {
			return err
		}
		run.Logs = append(run.Logs, log)
		notes, err := h.readNotes()
		if err != nil {
			return err
		}
		run.Notes = append(run.Notes, notes...)
	}
	return nil
}

func (h *Host) readHistory() (checker.Log, error) {
	log := checker.Log{Host: h.Name()}
	f, err := os.Open(h.file(".history"))
	if os.IsNotExist(err) {
		return log, nil
	}
	if err != nil {
		return log, err
	}
	defer f.Close()
	log.Records, err = history.Read(f)
	if err != nil {
		return log, fmt.Errorf("%s: %w", f.Name(), err)
	}
	for i := range log.Records {
		r := &log.Records[i]
		for _, t := range []*int64{&r.BootNS, &r.SentNS, &r.DeadlineNS, &r.UntilNS} {
			*t = h.skew.trueTime(*t)
		}
	}
	return log, nil
}

// readNotes reads the notes. An operation is noted before it is made and again with
// its answer: the later note of a value counts.
func (h *Host) readNotes() (notes []checker.Note, err error) {
	f, err := os.Open(h.file(".notes"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	written := make(map[string]int)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var n checker.Note
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			continue // torn by kill -9
		}
		n.BootNS, n.ReturnNS = h.skew.trueTime(n.BootNS), h.skew.trueTime(n.ReturnNS)
		if i, twice := written[n.Value]; twice && n.Kind == checker.Write {
			notes[i] = n
			continue
		}
		if n.Kind == checker.Write {
			written[n.Value] = len(notes)
		}
		notes = append(notes, n)
	}
	return notes, lines.Err()
}

// report fails the test for each violation, keeps what was recorded, and says what
// became of the cluster.
func (l *Lab) report(r checker.Report) {
	l.t.Helper()
	for _, v := range r.Violations {
		l.t.Error(v)
	}
	l.t.Logf("%d masterships, %d writes, %d refused for their term; a master %.1f %% of the time, longest without %v; the last one named for %v after its end; one master after %v, one component after %v",
		r.Masterships, r.Writes, r.Refused, 100*r.Available, r.Gap.Round(time.Millisecond), r.Named.Round(time.Millisecond), r.ToMaster.Round(time.Millisecond), r.ToComponent.Round(time.Millisecond))
	if r.Stalled > 0 {
		l.t.Logf("the machine stood still for %v in all", r.Stalled.Round(time.Millisecond))
	}
	if l.t.Failed() || os.Getenv("KEEP") != "" {
		l.t.Logf("what was done:\n%s\nwhat was recorded is kept in %s", strings.Join(l.events, "\n"), l.keep())
	}
}

// keep copies all files to where they outlive the test: below $KEEP, which also keeps those of
// tests that pass, or else below /tmp/muster-faults.
func (l *Lab) keep() string {
	base := cmp.Or(os.Getenv("KEEP"), "/tmp/muster-faults")
	dir := filepath.Join(base, fmt.Sprintf("%s-%s-%d-%d", l.options.Name, l.options.Provider, l.options.Seed, os.Getpid()))
	_ = os.RemoveAll(dir)
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "events"), []byte(strings.Join(l.events, "\n")+"\n"), 0o644)
	}
	for _, h := range slices.Concat(l.Hosts, l.retired) {
		for _, suffix := range []string{".yaml", ".history", ".notes", ".log"} {
			text, readErr := os.ReadFile(h.file(suffix))
			if readErr == nil && err == nil {
				err = os.WriteFile(filepath.Join(dir, h.Name()+suffix), text, 0o644)
			}
		}
	}
	if err != nil {
		return fmt.Sprintf("(not kept: %v)", err)
	}
	return dir
}
