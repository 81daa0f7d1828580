package etcd

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

// Etcd is dialled at its address, and errors show that, whatever proxies the environment has.
// A process reads them once, so that this is another one.
func TestNoProxyOfTheEnvironment(t *testing.T) {
	if os.Getenv("MUSTER_TEST_PROXIED") != "" {
		d := open(t, Config{Endpoints: []string{"http://192.0.2.1:2379"}, DialTimeout: 500 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := d.List(ctx, driver.Query{Service: "svc"})
		t.Fatal(err)
	}
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := proxy.Accept()
			if err != nil {
				return
			}
			conn.Close()
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}()
	defer proxy.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoProxyOfTheEnvironment$")
	cmd.Env = append(os.Environ(), "MUSTER_TEST_PROXIED=1")
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		cmd.Env = append(cmd.Env, name+"=http://"+proxy.Addr().String(), strings.ToLower(name)+"=http://"+proxy.Addr().String())
	}
	cmd.Env = append(cmd.Env, "NO_PROXY=", "no_proxy=")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "192.0.2.1:2379") && !strings.Contains(string(out), "deadline") || strings.Contains(string(out), proxy.Addr().String()) {
		t.Errorf("%v: %s", err, out)
	}
	select {
	case <-asked:
		t.Error("the proxy was asked")
	default:
	}
}
