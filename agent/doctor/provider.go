package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/driver"
)

// tidyTimeout bounds the removal of what was written, after the check's own time.
const tidyTimeout = 1500 * time.Millisecond

// provider finds out whether a provider can be reached and lets the node do all that
// it will do.
func (r *run) provider(ctx context.Context, registry *discovery.Registry) []Finding {
	name := "provider." + registry.Name()
	d := registry.Driver()
	snapshot, err := d.List(ctx, driver.Query{Service: r.Config.Cluster})
	found := []Finding{r.listed(name, registry.Name(), snapshot, err)}
	if err != nil && !errors.Is(err, driver.ErrDenied) {
		const why, hint = "it cannot be reached", "see what is said of reading"
		return append(found, skipped(name+".register", why, hint), skipped(name+".mastership", why, hint))
	}
	r.mu.Lock()
	r.known[registry.Name()] = known{read: err == nil, instances: snapshot.Instances}
	r.mu.Unlock()
	found = append(found, r.servers(ctx, registry)...)
	found = append(found, readers(registry, []driver.Instance{r.instance()})...)
	return append(found, r.registers(ctx, name, registry), r.grants(ctx, name, registry))
}

func (r *run) listed(name, provider string, s driver.Snapshot, err error) Finding {
	check, label := name+".read", r.Config.ProviderLabel(provider)
	switch {
	case err != nil:
		return r.refused(check, provider, fmt.Errorf("%s: %w", label, err))
	case len(s.Skipped) > 0:
		return Finding{check, Warn, fmt.Sprintf("%s: %s, and %d entries that cannot be read, as %s: %v", label,
			counted(len(s.Instances), "instance"), len(s.Skipped), s.Skipped[0].Key, s.Skipped[0].Reason), "correct or remove these entries"}
	}
	return ok(check, "%s: %s of %s", label, counted(len(s.Instances), "instance"), r.Config.Cluster)
}

// instance is what this node registers, as far as that is known before it runs.
func (r *run) instance() driver.Instance {
	c := r.Config
	r.mu.Lock()
	defer r.mu.Unlock()
	return driver.Instance{Service: c.Cluster, NodeID: c.Node.ID, InstanceID: strings.Repeat("0", 32), Addr: r.found}
}

// servers finds out whether the address of a provider leads to several servers with separate
// state. Where it does not, or where that does not matter, there is nothing to say.
func (r *run) servers(ctx context.Context, registry *discovery.Registry) []Finding {
	identifier, can := registry.Driver().(driver.Identifier)
	if !can {
		return nil
	}
	check, label := "provider."+registry.Name()+".servers", r.Config.ProviderLabel(registry.Name())
	names, err := identifier.Identify(ctx)
	switch {
	case errors.Is(err, driver.ErrDenied):
		return []Finding{ok(check, "%s: who answers is not known: %s", label, oneLine(err))}
	case err != nil:
		return []Finding{{check, Warn, fmt.Sprintf("%s: who answers is not known: %s", label, oneLine(err)), "see what is said of reading"}}
	case len(names) > 1:
		return []Finding{{check, Warn, fmt.Sprintf("%s: several servers with separate state answer: %s", label, strings.Join(names, " and ")),
			"name one of them, or those of one cluster alone, in provider." + registry.Name() + ": no balancer, and no name with the addresses of several"}}
	}
	return nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// refused names the permission to grant, or what to look at if there is no answer.
func (r *run) refused(check, provider string, err error) Finding {
	text := strings.Join(strings.Fields(err.Error()), " ")
	section := "provider." + provider
	if hint := certificateHint(section, text); hint != "" {
		return Finding{check, Fail, text, hint}
	}
	switch {
	case errors.Is(err, driver.ErrDenied):
		hint := r.Providers[provider].Permission
		if hint == "" {
			hint = "grant the permission, or configure another user"
		}
		return Finding{check, Fail, text, hint}
	case errors.Is(err, driver.ErrInvalid):
		return Finding{check, Fail, text, "correct the section " + section}
	}
	return Finding{check, Fail, text, "start it, correct its address in " + section + ", or let this host through to it" + unusedProxy()}
}

// unusedProxy names a proxy of the environment, which other programs of this host may go
// through, and Muster does not.
func unusedProxy() string {
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			proxy := os.Getenv(name)
			if proxy == "" {
				continue
			}
			if at := strings.LastIndexByte(proxy, '@'); at >= 0 {
				proxy = proxy[at+1:] // before it stands who may use it
			}
			return fmt.Sprintf("; the proxy %s of %s is not used", proxy, name)
		}
	}
	return ""
}

// certificateHint says what to do about a certificate that one end does not accept. What
// the clients of providers return is no more than the text of that, of crypto/tls.
func certificateHint(section, text string) string {
	for _, c := range certificateCauses {
		if strings.Contains(text, c.said) {
			return strings.ReplaceAll(c.hint, "SECTION", section)
		}
	}
	return ""
}

const (
	wrongHost = "write a host that its certificate is for in SECTION, set SECTION.tls.server_name to one, or have it issued for the host that is dialled"
	notOurs   = "show it a certificate of an authority that it knows, in SECTION.tls.cert_file and SECTION.tls.key_file"
)

// certificateCauses are in the order in which they count: several servers may each have
// said something. Other alerts than those about our certificate are not its fault.
var certificateCauses = []struct{ said, hint string }{
	{"x509: certificate signed by unknown", "name the authority that has signed its certificate in SECTION.tls.ca_file"},
	{"x509: certificate has expired or is", "have its certificate renewed, or set the clock of this host right"},
	{"x509: certificate is valid for", wrongHost},
	{"x509: certificate is not valid for", wrongHost},
	{"x509: cannot validate certificate for", wrongHost},
	{"remote error: tls: bad certificate", notOurs},
	{"remote error: tls: unknown certificate", notOurs},
	{"remote error: tls: certificate required", notOurs},
	{"remote error: tls: expired certificate", notOurs},
	{"remote error: tls: unsupported certificate", notOurs},
}

// registers checks whether the node may register.
func (r *run) registers(ctx context.Context, name string, registry *discovery.Registry) Finding {
	check := name + ".register"
	if !registry.CanRegister() {
		return ok(check, "it takes no registrations")
	}
	checker, can := registry.Driver().(driver.PermissionChecker)
	if !can {
		return ok(check, "it takes registrations; whether it takes those of this node is seen when that runs")
	}
	if err := checker.CheckPermission(ctx, r.Config.Cluster); err != nil {
		return r.refused(check, registry.Name(), err)
	}
	return ok(check, "instances of %s may be registered and removed", r.Config.Cluster)
}

// grants looks who is master and checks whether this node may become it, and writes, reads
// and deletes a record.
func (r *run) grants(ctx context.Context, name string, registry *discovery.Registry) (f Finding) {
	check := name + ".mastership"
	authorities := r.Node.Mastership.Authority
	if len(authorities) > 0 && !slices.Contains(authorities, registry.Name()) {
		return ok(check, "it grants none: that is for %s", strings.Join(authorities, " and "))
	}
	if _, can := registry.Driver().(driver.Authorizer); !can {
		return Finding{check, Warn, "it grants none, so that no node is ever master", "configure a provider that does, if a master is wanted"}
	}
	if !registry.CanRegister() {
		// The grants of a provider that keeps nothing come from the nodes themselves.
		return ok(check, "the listed nodes vote for it: see cluster")
	}
	self := driver.Holder{NodeID: r.Config.Node.ID, InstanceID: "doctor-" + strings.ToLower(rand.Text())}
	authority, err := registry.OpenAuthority(ctx, driver.AuthorityOptions{Cluster: r.Config.Cluster, Self: self, TTL: r.Config.Mastership.TTL})
	if err != nil {
		return r.refused(check, registry.Name(), err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
		defer cancel()
		_ = authority.Close(ctx) // it holds nothing
	}()
	for m, err := range authority.Observe(ctx) {
		if err != nil {
			return r.refused(check, registry.Name(), err)
		}
		r.mu.Lock()
		k := r.known[registry.Name()]
		k.master = &m
		r.known[registry.Name()] = k
		r.mu.Unlock()
		break
	}
	if !r.Config.Mastership.Eligible {
		return ok(check, "who is master can be read; mastership.eligible is false")
	}
	if checker, can := authority.(driver.ClaimPermissionChecker); can {
		if err := checker.CheckClaimPermission(ctx); err != nil {
			return r.refused(check, registry.Name(), err)
		}
	}
	if store, can := authority.(driver.Store); can {
		if err := scratch(ctx, store, self.InstanceID); err != nil {
			return r.refused(check, registry.Name(), err)
		}
	}
	return ok(check, "this node may become master; a record can be written, read and deleted")
}

// scratch writes a record and deletes it. What may be left of it is removed after the
// time of the check as well.
func scratch(ctx context.Context, store driver.Store, key string) error {
	revision, err := store.Set(ctx, key, []byte("written by muster doctor to see whether it may"), 0)
	if err == nil {
		_, err = store.Get(ctx, key)
	}
	if err == nil {
		err = store.Delete(ctx, key, revision)
	}
	if err == nil || errors.Is(err, driver.ErrDenied) && revision == 0 {
		return err
	}
	tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	record, left := store.Get(tidy, key)
	switch {
	case errors.Is(left, driver.ErrNotFound):
		return err
	case left == nil:
		left = store.Delete(tidy, key, record.Revision)
	}
	if left != nil {
		return fmt.Errorf("%w (the record %s may be left behind)", err, key)
	}
	return err
}
