package httpapi

import (
	"net/http"
	"testing"

	"github.com/musterhq/muster/internal/testing/routestest"
	"github.com/musterhq/muster/node/cron"
	"github.com/musterhq/muster/node/upgrade"
)

// The page describes every route, and every field of what it answers.
func TestAPIPage(t *testing.T) {
	table := new(server).routes(http.NotFoundHandler())
	routestest.CheckPage(t, "../../docs/http-api.md", "Of an agent", table,
		Status{}, View{}, Voters{}, Event{}, Master{}, Mastership{}, Done{}, Resigned{}, Left{}, Reloaded{}, upgrade.Status{}, UpgradeResult{}, Job{}, cron.RunStatus{}, Removed{}, Alive{}, map[string]Error{})
}
