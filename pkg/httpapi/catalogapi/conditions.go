package catalogapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/problem"
)

// base reads If-Match or If-None-Match (RFC 9110 sections 13.1.1 and 13.1.2). Without
// either, a change is based on whatever there is.
func base(h http.Header) (b catalog.Base, err error) {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	switch {
	case len(match)+len(none) == 0:
		return b, nil
	case len(match)+len(none) > 1:
		return b, problem.ErrInvalid.WithField("If-Match", "must be the one condition")
	case len(none) == 1 && none[0] != catalog.AnyTag:
		return b, problem.ErrInvalid.WithField("If-None-Match", "must be *, for what is new")
	case len(none) == 1:
		return catalog.Base{New: true}, nil
	case match[0] == catalog.AnyTag:
		return catalog.Base{Tag: catalog.AnyTag}, nil
	case strings.HasPrefix(match[0], `W/"`):
		return b, catalog.ErrChanged // a weak tag matches nothing here
	}
	tag, opened := strings.CutPrefix(match[0], `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	if !opened || !closed || tag == "" || tag == catalog.AnyTag || strings.ContainsAny(tag, `", `) {
		return b, problem.ErrInvalid.WithField("If-Match", "must be one entity tag in quotes: updated_at as it was shown; or *")
	}
	return catalog.Base{Tag: tag}, nil
}

// tag says what the next change can be based on.
func tag(c *gin.Context, changed time.Time) {
	c.Header("ETag", `"`+catalog.Tag(changed)+`"`)
}
