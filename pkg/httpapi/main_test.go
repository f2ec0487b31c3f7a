package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	goleak.VerifyTestMain(m)
}

// call is a request to an engine without a network, and its answer.
type call struct {
	*gin.Context
	*httptest.ResponseRecorder
	info *reqctx.Info
}

func newCall(method, target, body string) call {
	recorder := httptest.NewRecorder()
	c, _ := gin.CreateTestContext(recorder)
	info := &reqctx.Info{ID: "request-id"}
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	c.Request = request.WithContext(reqctx.With(request.Context(), info))
	return call{c, recorder, info}
}

// document is the problem document of an answer.
func document(t *testing.T, answer *http.Response) (d problem.Document) {
	t.Helper()
	if got := answer.Header.Get("Content-Type"); got != problem.ContentType {
		t.Errorf("media type %q", got)
	}
	if err := json.NewDecoder(answer.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.Status != answer.StatusCode {
		t.Errorf("status %d in a document of status %d", d.Status, answer.StatusCode)
	}
	return d
}

// fields is what an error says is wrong, "field: detail" each.
func fields(err error) (all []string) {
	for _, f := range problem.From(err).Fields {
		all = append(all, f.Field+": "+f.Detail)
	}
	return all
}

func isInvalid(err error) bool {
	return errors.Is(err, problem.ErrInvalid) && problem.From(err).Kind.Status() == http.StatusBadRequest
}
