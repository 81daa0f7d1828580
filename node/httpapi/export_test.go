package httpapi

import (
	"net/http"

	"github.com/musterhq/muster/internal/routes"
)

// Routes are all that an API serves.
func Routes() routes.Table { return new(server).routes(http.NotFoundHandler()) }
