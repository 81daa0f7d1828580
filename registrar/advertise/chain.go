package advertise

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Outcome is how a step of the chain has ended.
type Outcome string

// The outcomes of a step.
const (
	// Found means that the step knows the address. The chain ends there.
	Found Outcome = "found"
	// NotApplicable means that the step has no business here.
	NotApplicable Outcome = "not_applicable"
	// Failed means that the step should know the address and does not.
	Failed Outcome = "failed"
)

// The names of the steps that this package has itself. Those of detectors are their
// own.
const (
	StepConfig     = "config"
	StepEnv        = "env"
	StepBind       = "bind"
	StepKubernetes = "kubernetes"
	StepECS        = "ecs"
	StepNomad      = "nomad"
	StepInterface  = "interface"
)

// Step is what one way of finding the address has answered.
type Step struct {
	Name    string
	Outcome Outcome
	// Addr is the HOST:PORT that was found, empty where none was.
	Addr string
	// Reason says how it was found or why not, in a few words for people.
	Reason string
}

// Explanation is an address and how it was come by.
type Explanation struct {
	// Address is zero where none was found.
	Address
	// Steps are those that were asked, in their order. Where an address was found, the
	// last one has found it, unless Err says why it is not taken.
	Steps []Step
	// Err says why there is no address. It is an error of Resolve.
	Err error
}

// String is the chain on one line: "env: not applicable (...); interface: 10.0.0.5:7946 (...)".
func (e Explanation) String() string {
	parts := make([]string, len(e.Steps))
	for i, s := range e.Steps {
		told := s.Addr
		if s.Outcome != Found {
			told = strings.ReplaceAll(string(s.Outcome), "_", " ")
		}
		parts[i] = fmt.Sprintf("%s: %s (%s)", s.Name, told, s.Reason)
	}
	return strings.Join(parts, "; ")
}

// step is one way of finding the address.
type step struct {
	name string
	find method
	// decides says that the step was told the address, and that no other stands in for
	// it when it fails.
	decides bool
	// inside says that what is found belongs to an interface, and may be an address
	// that leads nowhere from outside.
	inside bool
}

// ask asks the steps in their order until one has found the address. A step of a
// chain is bounded in time, so that one that hangs leaves time for the next.
func ask(ctx context.Context, spec string, steps []step, bound netip.AddrPort, o Options, used Explanation) (candidate, []Step, error) {
	var asked []Step
	var last error
	hostNetwork := false // as a step has said
	for _, s := range steps {
		found, err := s.ask(ctx, bound, len(steps) > 1, o)
		if err == nil {
			best := choose(found, used.Addr)
			if problem := unsound(spec, best, bound, o); problem != nil {
				return candidate{}, append(asked, failed(s, problem)), problem
			}
			if s.inside && !o.AllowInternal && !hostNetwork {
				err = inside(spec, best, asked, o)
			}
			if err == nil {
				asked = append(asked, Step{s.name, Found, best.addr.String(), best.source})
				return best, asked, stays(spec, asked, used)
			}
		}
		hostNetwork = hostNetwork || errors.Is(err, ErrHostNetwork)
		asked = append(asked, failed(s, err))
		if len(steps) == 1 || s.decides && !errors.Is(err, ErrNotApplicable) {
			return candidate{}, asked, err
		}
		last = err
	}
	return candidate{}, asked, blame(spec, last, asked)
}

func (s step) ask(ctx context.Context, bound netip.AddrPort, bounded bool, o Options) ([]candidate, error) {
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.StepTimeout)
		defer cancel()
	}
	return s.find(ctx, bound)
}

// choose takes the best candidate, or the one in use where it is as good.
func choose(found []candidate, used string) candidate {
	best := found[0]
	for _, c := range found {
		if c.rank == best.rank && c.addr.String() == used {
			best = c
			break
		}
	}
	return best
}

// unsound returns what only another setting can mend.
func unsound(spec string, c candidate, bound netip.AddrPort, o Options) error {
	if problem := unusable(c.addr.Addr()); problem != "" {
		return invalid(spec, "%s; %s", problem, forms(o))
	}
	if c.addr.Port() == 0 {
		return invalid(spec, "the bound address %v has no port; listen before the address is resolved", bound)
	}
	return nil
}

// failed is the step of err.
func failed(s step, err error) Step {
	if errors.Is(err, ErrNotApplicable) {
		return Step{Name: s.name, Outcome: NotApplicable, Reason: reason(err)}
	}
	return Step{Name: s.name, Outcome: Failed, Reason: reason(err)}
}

// inside returns why an address of an interface leads nowhere from outside, which the
// steps before did not make good. Why no detector did is told even where it does not
// apply: that there is no engine to ask may be what is to be mended.
func inside(spec string, c candidate, asked []Step, o Options) error {
	where := o.Isolated(c.iface)
	if where == "" {
		return nil
	}
	problem := fmt.Sprintf("%v is an address within %s, and nothing says at which address of its host others reach it", c.addr, where)
	detector := func(name string) bool {
		return slices.ContainsFunc(o.Detectors, func(d Detector) bool { return d.Name() == name })
	}
	said := told(asked, func(s Step) bool { return s.Outcome == Failed || detector(s.Name) })
	return &noAddress{spec, problem + said + "; publish the port, write HOST:PORT or set " + EnvAddr +
		", or set detect.require_external: false where all others are in that network", errInside}
}

// errInside marks the error of inside, which has told all.
var errInside = errors.New("an address within a container")

// blame adds to the error of the last step what has failed before it.
func blame(spec string, last error, asked []Step) error {
	var n *noAddress
	said := told(asked[:len(asked)-1], func(s Step) bool { return s.Outcome == Failed })
	if errors.Is(last, errInside) || said == "" || !errors.As(last, &n) {
		return last
	}
	return &noAddress{spec, n.problem + said, n}
}

// told lists what some of the steps have said.
func told(asked []Step, which func(Step) bool) string {
	var b strings.Builder
	for _, s := range asked {
		if which(s) {
			fmt.Fprintf(&b, "; %s: %s", s.Name, s.Reason)
		}
	}
	return b.String()
}

// stays returns why what the last step has found does not take the place of the
// address in use: that one was found by a step before it, which does not find it now.
// An engine that is being restarted, or a registry that is, moves no node.
func stays(spec string, asked []Step, used Explanation) error {
	if used.Addr == "" || len(used.Steps) == 0 {
		return nil
	}
	winner := used.Steps[len(used.Steps)-1].Name
	for _, s := range asked[:len(asked)-1] {
		if s.Name == winner {
			return &noAddress{spec, fmt.Sprintf("%s, which has found %s, does not find it again: %s; it stays until %s finds another",
				winner, used.Addr, s.Reason, winner), nil}
		}
	}
	return nil
}

// reason is the heart of an error of a step, without what all of them repeat.
func reason(err error) string {
	var n *noAddress
	if errors.As(err, &n) {
		return n.problem
	}
	if c := asConfigError(err); c != nil {
		return c.Problem
	}
	text := err.Error()
	if errors.Is(err, ErrNotApplicable) {
		text = strings.TrimPrefix(text, ErrNotApplicable.Error()+": ")
	}
	return text
}

// notHere is the error of a step that has no business here.
func notHere(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotApplicable, fmt.Sprintf(format, args...))
}

// defaultStepTimeout bounds each step of a chain.
const defaultStepTimeout = 10 * time.Second
