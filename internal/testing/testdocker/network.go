package testdocker

import "strings"

// Network makes a network and returns its name. flags are those of docker network
// create, such as "--driver", "macvlan". It is removed when the test ends; make it before
// the containers in it, so that it goes after them.
func (e *Engine) Network(flags ...string) string {
	e.t.Helper()
	name, err := e.TryNetwork(flags...)
	if err != nil {
		e.t.Fatal(err)
	}
	return name
}

// TryNetwork is Network for kinds that not every host has.
func (e *Engine) TryNetwork(flags ...string) (string, error) {
	name := unique()
	command := append([]string{"network", "create"}, labels()...)
	if _, err := docker(append(append(command, flags...), name)...); err != nil {
		return "", err
	}
	e.t.Cleanup(func() {
		if _, err := docker("network", "rm", name); err != nil && !strings.Contains(err.Error(), "No such network") {
			e.t.Errorf("remove network %s: %v", name, err)
		}
	})
	return name, nil
}

// Gateway is the address of this host in a network that Network has made.
func (e *Engine) Gateway(network string) string {
	e.t.Helper()
	return e.Docker("network", "inspect", "--format", "{{range .IPAM.Config}}{{.Gateway}}{{end}}", network)
}
