package page_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/musterhq/muster/agent/page"
	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/discovery/memory"
	"github.com/musterhq/muster/node"
	"github.com/musterhq/muster/node/httpapi"
)

// A program that embeds a node serves the page at / and the API beside it.
func ExampleNode() {
	ctx := context.Background()
	registry := discovery.New("memory", memory.New().Driver(), discovery.Options{})
	defer registry.Close()
	n, err := node.Start(ctx, node.Config{Cluster: "orders", Bind: "127.0.0.1:0", Registries: []*discovery.Registry{registry}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer n.Leave(ctx)

	o := httpapi.Options{LocalNames: true} // on loopback, for those who call it localhost
	p := page.Node(n, httpapi.NewWith(n, o), o)
	defer p.Close()

	// A program passes p to httpapi.NewServer.
	for _, host := range []string{"localhost:7980", "evil.example"} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil))
		fmt.Println(w.Code, strings.Contains(w.Body.String(), "<h1>Cluster orders</h1>"))
	}
	// Output:
	// 200 true
	// 403 false
}
