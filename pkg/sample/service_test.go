package sample

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServicesServeTheirSampleData(t *testing.T) {
	users := into[page[user]](t, call(t, serve(t, Users(quiet())), "GET", "/users", ""))
	products := into[page[product]](t, call(t, serve(t, Products(quiet())), "GET", "/products", ""))
	if users.Total != 5 || len(users.Items) != 5 || products.Total != 5 || len(products.Items) != 5 {
		t.Fatalf("got %d users and %d products, want 5 of each", users.Total, products.Total)
	}
	for i, u := range users.Items {
		if wrong := u.check(); u.ID != i+1 || wrong != nil {
			t.Errorf("sample user %d: %+v: %v", i+1, u, wrong)
		}
	}
	for i, p := range products.Items {
		if wrong := p.check(); p.ID != i+1 || wrong != nil {
			t.Errorf("sample product %d: %+v: %v", i+1, p, wrong)
		}
	}
}

// TestRecordsAreCreatedReadChangedAndDeleted walks one record through its life,
// at the root and below the prefix that a route may leave on.
func TestRecordsAreCreatedReadChangedAndDeleted(t *testing.T) {
	for _, prefix := range []string{"", "/api"} {
		srv := serve(t, Products(quiet()))
		list := prefix + "/products"

		made := call(t, srv, "POST", list, `{"name":"Mug","price_cents":0,"currency":"EUR","stock":3}`)
		want := product{ID: 6, Name: "Mug", Currency: "EUR", Stock: 3}
		if got := into[product](t, made); made.status != http.StatusCreated || got != want {
			t.Fatalf("create: got %d %+v, want 201 %+v", made.status, got, want)
		}
		base, err := http.NewRequest("GET", srv.URL+list, nil)
		if err != nil {
			t.Fatal(err)
		}
		location, err := base.URL.Parse(made.header.Get("Location"))
		if err != nil || location.Path != list+"/6" {
			t.Errorf("create: Location %q leads to %v, want %s/6", made.header.Get("Location"), location, list)
		}
		one := location.Path

		if got := into[product](t, call(t, srv, "GET", one, "")); got != want {
			t.Errorf("get: got %+v, want %+v", got, want)
		}
		changed := call(t, srv, "PATCH", one, `{"stock":2}`, "Content-Type: application/merge-patch+json")
		want.Stock = 2
		if got := into[product](t, changed); changed.status != http.StatusOK || got != want {
			t.Errorf("patch: got %d %+v, want 200 %+v", changed.status, got, want)
		}
		replaced := call(t, srv, "PUT", one, `{"id":6,"name":"Cup","price_cents":5,"currency":"USD","stock":0}`)
		want = product{ID: 6, Name: "Cup", PriceCents: 5, Currency: "USD"}
		if got := into[product](t, replaced); replaced.status != http.StatusOK || got != want {
			t.Errorf("put: got %d %+v, want 200 %+v", replaced.status, got, want)
		}
		call(t, srv, "PUT", one, `{"name":"Bowl","price_cents":5,"currency":"USD","stock":0}`)
		want.Name = "Bowl"
		if got := into[product](t, call(t, srv, "GET", one, "")); got != want {
			t.Errorf("put without id: got %+v, want %+v", got, want)
		}
		if got := call(t, srv, "DELETE", one, ""); got.status != http.StatusNoContent || got.body != "" {
			t.Errorf("delete: got %d %q, want 204", got.status, got.body)
		}
		if got := call(t, srv, "GET", one, ""); got.status != http.StatusNotFound {
			t.Errorf("get after delete: got %d, want 404", got.status)
		}
		if got := into[product](t, call(t, srv, "POST", list, `{"name":"Next","price_cents":1,"currency":"EUR","stock":3}`)); got.ID != 7 {
			t.Errorf("the next record has id %d, want 7: an id is never used again", got.ID)
		}
	}
}

// TestRefusalsAreClear has one line for each way to be refused.
func TestRefusalsAreClear(t *testing.T) {
	const valid = `{"name":"Grace Hopper","email":"grace@example.com","city":"New York"}`
	long := strings.Repeat("x", 101)
	srv := serve(t, Users(quiet()))
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		code, field        string
	}{
		"unknown path":           {"GET", "/orders", "", nil, 404, "sample.no_path", ""},
		"trailing slash":         {"GET", "/users/", "", nil, 404, "sample.no_path", ""},
		"below a record":         {"GET", "/users/1/keys", "", nil, 404, "sample.no_path", ""},
		"unknown id":             {"GET", "/users/99", "", nil, 404, "sample.not_found", ""},
		"id zero":                {"GET", "/users/0", "", nil, 404, "sample.not_found", ""},
		"id with sign":           {"GET", "/users/+1", "", nil, 404, "sample.not_found", ""},
		"id with zeros":          {"GET", "/users/01", "", nil, 404, "sample.not_found", ""},
		"id too large":           {"GET", "/users/99999999999999999999", "", nil, 404, "sample.not_found", ""},
		"change unknown id":      {"PUT", "/users/99", valid, nil, 404, "sample.not_found", ""},
		"patch unknown id":       {"PATCH", "/users/99", `{}`, nil, 404, "sample.not_found", ""},
		"delete unknown id":      {"DELETE", "/users/99", "", nil, 404, "sample.not_found", ""},
		"method of list":         {"DELETE", "/users", "", nil, 405, "sample.method", ""},
		"method of record":       {"POST", "/users/1", valid, nil, 405, "sample.method", ""},
		"no media type":          {"POST", "/users", valid, []string{"Content-Type: "}, 415, "sample.media_type", ""},
		"form":                   {"POST", "/users", "name=x", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "sample.media_type", ""},
		"merge patch on put":     {"PUT", "/users/1", valid, []string{"Content-Type: application/merge-patch+json"}, 415, "sample.media_type", ""},
		"content coding":         {"POST", "/users", valid, []string{"Content-Encoding: gzip"}, 415, "sample.media_type", ""},
		"too large":              {"POST", "/users", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, "sample.too_large", ""},
		"no body":                {"POST", "/users", "", []string{"Content-Type: application/json"}, 400, "sample.body", ""},
		"not JSON":               {"POST", "/users", "name", nil, 400, "sample.body", ""},
		"list":                   {"POST", "/users", "[]", nil, 400, "sample.body", ""},
		"null":                   {"POST", "/users", "null", nil, 400, "sample.body", ""},
		"half an object":         {"POST", "/users", `{"name":"x"`, nil, 400, "sample.body", ""},
		"two objects":            {"POST", "/users", valid + valid, nil, 400, "sample.body", ""},
		"not UTF-8":              {"POST", "/users", "{\"name\":\"\xff\"}", nil, 400, "sample.body", ""},
		"unknown member":         {"POST", "/users", `{"role":"admin"}`, nil, 400, "sample.body", "role"},
		"other letter case":      {"POST", "/users", `{"Name":"x"}`, nil, 400, "sample.body", "Name"},
		"member twice":           {"POST", "/users", `{"name":"x","name":"y"}`, nil, 400, "sample.body", "name"},
		"null member":            {"PATCH", "/users/1", `{"city":null}`, nil, 400, "sample.body", "city"},
		"wrong type":             {"POST", "/users", `{"name":1}`, nil, 400, "sample.body", "name"},
		"object as member":       {"PATCH", "/users/1", `{"city":{"$set":"x"}}`, nil, 400, "sample.body", "city"},
		"id of wrong type":       {"PUT", "/users/1", `{"id":"1"}`, nil, 400, "sample.body", "id"},
		"too deep":               {"POST", "/users", `{"name":` + strings.Repeat("[", 20_000), nil, 400, "sample.body", ""},
		"id on create":           {"POST", "/users", `{"id":9,"name":"x","email":"x@example.com","city":"x"}`, nil, 422, "sample.record", "id"},
		"other id on put":        {"PUT", "/users/1", `{"id":2,"name":"x","email":"x@example.com","city":"x"}`, nil, 422, "sample.record", "id"},
		"other id on patch":      {"PATCH", "/users/1", `{"id":2}`, nil, 422, "sample.record", "id"},
		"member missing":         {"POST", "/users", `{"name":"x","email":"x@example.com"}`, nil, 422, "sample.record", "city"},
		"member missing on put":  {"PUT", "/users/1", `{"name":"x","email":"x@example.com"}`, nil, 422, "sample.record", "city"},
		"empty":                  {"PATCH", "/users/1", `{"name":""}`, nil, 422, "sample.record", "name"},
		"blank":                  {"PATCH", "/users/1", `{"name":"  "}`, nil, 422, "sample.record", "name"},
		"too long":               {"PATCH", "/users/1", `{"city":"` + long + `"}`, nil, 422, "sample.record", "city"},
		"control character":      {"PATCH", "/users/1", `{"name":"a\u0000b"}`, nil, 422, "sample.record", "name"},
		"no e-mail address":      {"PATCH", "/users/1", `{"email":"ada"}`, nil, 422, "sample.record", "email"},
		"e-mail with a name":     {"PATCH", "/users/1", `{"email":"Ada <ada@example.com>"}`, nil, 422, "sample.record", "email"},
		"two e-mail addresses":   {"PATCH", "/users/1", `{"email":"a@example.com,b@example.com"}`, nil, 422, "sample.record", "email"},
		"e-mail taken":           {"POST", "/users", `{"name":"x","email":"ADA@example.com","city":"x"}`, nil, 409, "sample.taken", "email"},
		"e-mail taken on change": {"PATCH", "/users/2", `{"email":"ada@example.com"}`, nil, 409, "sample.taken", "email"},
	} {
		got := call(t, srv, c.method, c.path, c.body, append(c.headers, "X-Request-Id: req-1")...)
		if got.status != c.status {
			t.Errorf("%s: got %d %s, want %d", name, got.status, got.body, c.status)
			continue
		}
		doc := got.problem(t)
		if doc.Code != c.code || doc.RequestID != "req-1" {
			t.Errorf("%s: got code %q, request id %q, want %q and req-1", name, doc.Code, doc.RequestID, c.code)
		}
		if c.field != "" && (len(doc.Errors) != 1 || doc.Errors[0].Field != c.field) {
			t.Errorf("%s: got errors %v, want one about %s", name, doc.Errors, c.field)
		}
		if got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: no nosniff", name)
		}
	}
	if got := into[page[user]](t, call(t, srv, "GET", "/users", "")); !cmp.Equal(got.Items, newStore(9, seedUsers()...).list()) {
		t.Errorf("a refused request changed the data: %+v", got)
	}
}

func TestProductsAreValidated(t *testing.T) {
	srv := serve(t, Products(quiet()))
	for body, field := range map[string]string{
		`{"price_cents":-1}`:        "price_cents",
		`{"price_cents":100000001}`: "price_cents",
		`{"currency":"eur"}`:        "currency",
		`{"currency":"EURO"}`:       "currency",
		`{"currency":""}`:           "currency",
		`{"stock":-1}`:              "stock",
		`{"stock":1000001}`:         "stock",
		`{"name":""}`:               "name",
	} {
		got := call(t, srv, "PATCH", "/products/1", body)
		if got.status != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, want 422", body, got.status)
			continue
		}
		if doc := got.problem(t); len(doc.Errors) != 1 || doc.Errors[0].Field != field {
			t.Errorf("%s: got errors %v, want one about %s", body, doc.Errors, field)
		}
	}
	for _, body := range []string{`{"price_cents":1.5}`, `{"price_cents":1e30}`, `{"stock":"1"}`} {
		if got := call(t, srv, "PATCH", "/products/1", body); got.status != http.StatusBadRequest {
			t.Errorf("%s: got %d, want 400", body, got.status)
		}
	}
}

func TestMethodNotAllowedNamesTheMethods(t *testing.T) {
	srv := serve(t, Users(quiet()))
	for path, want := range map[string]string{
		"/users":      "GET, HEAD, POST",
		"/users/1":    "DELETE, GET, HEAD, PATCH, PUT",
		"/api/whoami": "GET, HEAD",
	} {
		if got := call(t, srv, "OPTIONS", path, ""); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != want {
			t.Errorf("%s: got %d, Allow %q, want 405, %q", path, got.status, got.header.Get("Allow"), want)
		}
	}
}

func TestHealthAnswers(t *testing.T) {
	for _, h := range []http.Handler{Users(quiet()), Products(quiet())} {
		srv := serve(t, h)
		if got := call(t, srv, "GET", "/health", ""); got.status != http.StatusOK || got.body != `{"status":"ok"}`+"\n" {
			t.Errorf("got %d %q", got.status, got.body)
		} else if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("header %v, want JSON that is not to be guessed at", got.header)
		}
		if got := call(t, srv, "HEAD", "/health", ""); got.status != http.StatusOK || got.body != "" {
			t.Errorf("HEAD: got %d %q", got.status, got.body)
		}
	}
}

// TestConcurrentUseKeepsTheDataConsistent has clients create, change and delete
// at once; run it with the race detector.
func TestConcurrentUseKeepsTheDataConsistent(t *testing.T) {
	srv := serve(t, Users(quiet()))
	const clients, rounds = 8, 20
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := range rounds {
				made := call(t, srv, "POST", "/users", fmt.Sprintf(`{"name":"n","email":"u%d-%d@example.com","city":"c"}`, c, n))
				if made.status != http.StatusCreated {
					t.Errorf("create: %d %s", made.status, made.body)
					return
				}
				one := fmt.Sprintf("/users/%d", into[user](t, made).ID)
				if got := call(t, srv, "PATCH", one, `{"city":"d"}`); got.status != http.StatusOK {
					t.Errorf("patch: %d %s", got.status, got.body)
				}
				if n%2 == 0 {
					call(t, srv, "DELETE", one, "")
				}
				call(t, srv, "PATCH", "/users/1", fmt.Sprintf(`{"name":"client %d"}`, c))
				call(t, srv, "GET", "/users", "")
			}
		})
	}
	// Of many that want one address, one gets it.
	won := make(chan int, clients)
	for range clients {
		wg.Go(func() {
			won <- call(t, srv, "POST", "/users", `{"name":"n","email":"one@example.com","city":"c"}`).status
		})
	}
	wg.Wait()
	close(won)
	winners := 0
	for status := range won {
		if status == http.StatusCreated {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d clients got the same address, want 1", winners)
	}
	got := into[page[user]](t, call(t, srv, "GET", "/users", ""))
	if want := 5 + clients*rounds/2 + 1; got.Total != want {
		t.Errorf("%d users are left, want %d", got.Total, want)
	}
}

func TestRequestsAreLoggedWithoutSecrets(t *testing.T) {
	var log bytes.Buffer
	srv := serve(t, Users(slog.New(slog.NewJSONHandler(&log, nil))))
	call(t, srv, "POST", "/users?token=SECRET1", `{"name":"SECRET2"}`,
		"Authorization: Bearer SECRET3", "X-API-Key: SECRET4", "X-Request-Id: req-7")
	srv.Close() // the line is written after the answer
	for _, want := range []string{`"method":"POST"`, `"path":"/users"`, `"status":422`, `"request_id":"req-7"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s: %s", want, &log)
		}
	}
	if strings.Contains(log.String(), "SECRET") {
		t.Errorf("the log has a secret: %s", &log)
	}
}

func TestRequestIDOfAnyLengthIsNotRepeated(t *testing.T) {
	srv := serve(t, Users(quiet()))
	got := call(t, srv, "GET", "/users/99", "", "X-Request-Id: "+strings.Repeat("x", maxRequestID+1))
	if doc := got.problem(t); doc.RequestID != "" {
		t.Errorf("repeated an id of %d characters", len(doc.RequestID))
	}
}
