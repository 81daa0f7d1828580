package config_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/musterhq/muster/config"
	_ "github.com/musterhq/muster/providers/static" // the provider that is configured
)

// A configuration is loaded as a whole: what is wrong is reported at once, and a
// variable of the environment beats the file.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "muster.yaml")
	text := `
cluster: orders
node: {zone: eu-1}
provider: {static: {peers: ["10.0.0.5:7946"]}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	c, err := config.Load(config.Options{Path: file, Env: []string{"MUSTER_NODE_ZONE=eu-2"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Cluster, c.Node.Zone, c.Source("node.zone"))
	// Output: orders eu-2 env MUSTER_NODE_ZONE
}
