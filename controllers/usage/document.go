package usage

import (
	_ "embed"
	"net/http"
)

// document is the API's description: OpenAPI 3.1.
//
//go:embed openapi.json
var document []byte

// serveDocument is for everybody: it says nothing about the cluster.
func serveDocument(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(document) // one who is gone does not read it
}
