package host

import (
	"net/http"
	"testing"

	"github.com/musterhq/muster/internal/testing/routestest"
)

// The page describes every route, and every field of what it answers.
func TestAPIPage(t *testing.T) {
	routestest.CheckPage(t, "../../docs/http-api.md", "Of a registrar", new(Registrar).routes(http.NotFoundHandler()), Report{})
}
