package consul

import (
	"encoding/json"
	"net/http"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
)

// Read is what becomes of an answer.
func Read(header http.Header, body []byte) ([]discovery.Found, uint64, error) {
	var list []instance
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, 0, err
	}
	return read(header, list)
}
