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

	"github.com/musterhq/muster/internal/alarm"
	"github.com/musterhq/muster/internal/testing/alarmlog"
	"github.com/musterhq/muster/internal/testing/checker"
	"github.com/musterhq/muster/internal/testing/faultproxy"
	"github.com/musterhq/muster/node/history"
	"github.com/musterhq/muster/node/history/check"
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
	} else if !l.broken {
		l.checkAlarms()
		l.gatesOpen()
		l.callsWell(run.Quiet)
	}
	run.End = now()
	for _, w := range l.wrappers {
		w.stop()
	}
	var leaving sync.WaitGroup
	for _, h := range l.Hosts {
		leaving.Go(h.Stop)
	}
	leaving.Wait()
	l.background.Wait()
	recorded, err := l.load(&run)
	if err != nil {
		l.t.Error(err)
	}
	report := checker.Check(run)
	if !l.broken {
		l.report(report)
		l.checkAsUsers(recorded, report)
	}
	return report
}

// gatesOpen waits until each node that runs has got to the gate that another one has found open by
// now. The checker says what is missing.
func (l *Lab) gatesOpen() {
	l.t.Helper()
	highest, since := 0, l.lastForgotten()
	reached := func(h *Host) (version int) {
		notes, err := h.readNotes()
		if err != nil {
			l.t.Error(err)
		}
		h.mu.Lock()
		began := h.lives[len(h.lives)-1].Begin
		h.mu.Unlock()
		for _, n := range notes {
			if n.Kind == checker.GateOpen && n.BootNS >= max(began, since) {
				version = max(version, n.Version)
			}
		}
		return version
	}
	for _, h := range l.Hosts {
		highest = max(highest, reached(h))
	}
	l.within(settleSlack, func(context.Context) bool {
		return !slices.ContainsFunc(l.running(), func(h *Host) bool { return reached(h) < highest })
	})
}

// callsWell waits until a call to the master from each node that runs has succeeded since a moment.
// The checker says from which none has.
func (l *Lab) callsWell(since int64) {
	l.t.Helper()
	l.within(settleSlack, func(context.Context) bool {
		return !slices.ContainsFunc(l.running(), func(h *Host) bool {
			return !slices.ContainsFunc(l.notesOf(h), func(n checker.Note) bool {
				return n.Kind == checker.CallEnd && n.Name == checker.ToMaster && n.OK && n.BootNS > since
			})
		})
	})
}

// checkAsUsers fails the test where a user who has nothing but the histories, with the clocks as
// the hosts had them, would be told something else than what was: two masters that there were not,
// or none although there were.
func (l *Lab) checkAsUsers(recorded []checker.Log, known checker.Report) {
	l.t.Helper()
	if l.bounds.ClocksBroken {
		return
	}
	told := check.Check(recorded, check.Options{})
	truth := check.No
	if slices.Contains(known.Broken(), "I2") {
		truth = check.Yes
	}
	if told.TwoMasters != truth && told.TwoMasters != check.Unknown {
		l.t.Errorf("of two masters muster history says %s, and it is %s: %v", told.TwoMasters, truth, told.Violations)
	}
	l.t.Logf("of two masters muster history says %s %q", told.TwoMasters, told.Undecided)
}

// alarmSlack is how much longer than the cluster the last alarm may take to be over: what
// fails is tried again at intervals.
const alarmSlack = 30 * time.Second

// checkAlarms fails the test where the log of a node that runs has a warning that is not
// over although all faults are.
func (l *Lab) checkAlarms() {
	l.t.Helper()
	var open []string
	quiet := l.within(alarmSlack, func(context.Context) bool {
		open = nil
		for _, h := range l.running() {
			alarms, err := h.openAlarms()
			if err != nil {
				alarms = []string{err.Error()}
			}
			for _, line := range alarms {
				open = append(open, h.Name()+": "+line)
			}
		}
		return len(open) == 0
	})
	if !quiet {
		l.t.Errorf("%d warnings are not over %v after the last fault:\n%s", len(open), alarmSlack, strings.Join(open, "\n"))
	}
}

// openAlarms returns the warnings in the log of a host, since its node was started last,
// that are not over. Those of what happened rather than lasts are left out, since they are
// over only after a time without it.
func (h *Host) openAlarms() ([]string, error) {
	f, err := os.Open(h.file(".log"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	open, err := alarmlog.Open(f, "node started")
	return slices.DeleteFunc(open, func(line string) bool { return strings.Contains(line, `"`+alarm.AttrQuiet+`":`) }), err
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
// were wrong. It returns the histories as they were recorded.
func (l *Lab) load(run *checker.Run) (recorded []checker.Log, err error) {
	run.Applied = l.register.log()
	run.Faults, run.Forgotten = l.faults()
	for _, h := range slices.Concat(l.Hosts, l.retired) {
		run.Lives = append(run.Lives, h.lives...)
		run.Faults = append(run.Faults, h.pauses...)
		log, err := h.readHistory()
		if err != nil {
			return nil, err
		}
		recorded = append(recorded, log)
		run.Logs = append(run.Logs, h.onTrueTime(log))
		notes, err := h.readNotes()
		if err != nil {
			return nil, err
		}
		run.Notes = append(run.Notes, notes...)
	}
	run.Notes = append(run.Notes, l.beats()...)
	return recorded, nil
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
	return log, nil
}

// onTrueTime puts the times right where the host's clock was wrong.
func (h *Host) onTrueTime(log checker.Log) checker.Log {
	log.Records = slices.Clone(log.Records)
	for i := range log.Records {
		r := &log.Records[i]
		for _, t := range []*int64{&r.BootNS, &r.SentNS, &r.DeadlineNS, &r.UntilNS} {
			*t = h.skew.trueTime(*t)
		}
	}
	return log
}

// readNotes reads the notes. An operation is noted before it is made and again with
// its answer: the later note of a value counts.
func (h *Host) readNotes() (notes []checker.Note, err error) {
	return readNotes(h.file(".notes"), h.skew)
}

func readNotes(file string, s skew) (notes []checker.Note, err error) {
	f, err := os.Open(file)
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
		for _, t := range []*int64{&n.BootNS, &n.ReturnNS, &n.AskedNS, &n.DeadlineNS} {
			*t = s.trueTime(*t)
		}
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
	l.t.Logf("%d runs of steps, %d of jobs, %d of commands, at most %v late, the longest time between two of one job %v", r.Steps, r.Fires, r.Commands, r.CommandLate.Round(time.Millisecond), r.FireGap.Round(time.Millisecond))
	l.t.Logf("%d calls, %d with an answer, %d runs of handlers; an end at most %v after its deadline; %v", r.Calls, r.CallResults["ok"], r.CallRuns, r.CallLate.Round(time.Millisecond), r.CallResults)
	if r.Stalled > 0 {
		l.t.Logf("the machine stood still for %v in all", r.Stalled.Round(time.Millisecond))
	}
	if l.t.Failed() || os.Getenv("KEEP") != "" {
		l.t.Logf("what was done:\n%s\nwhat was recorded is kept in %s", l.text(), l.keep())
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
		err = os.WriteFile(filepath.Join(dir, "events"), []byte(l.text()+"\n"), 0o644)
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
