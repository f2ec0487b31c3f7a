package contract_test

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keywarden/keywarden/pkg/openapi/contract"
)

// descriptions are those of the tests of package openapi.
func descriptions(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../testdata/*[0-9].*")
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	texts := map[string][]byte{}
	for _, name := range names {
		if texts[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

func TestEveryOperationOfTheDescriptionsCompiles(t *testing.T) {
	for name, text := range descriptions(t) {
		everyOperation(t, name, text)
	}
}

func everyOperation(t *testing.T, name string, text []byte) {
	t.Helper()
	api, err := contract.Load(name, text)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	failed := 0
	for _, id := range api.Names() {
		op, err := api.Operation(id)
		if err != nil {
			if failed++; failed < 5 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		op.Mock(0, "")
	}
	t.Logf("%s: %d operations, %d fail", name, len(api.Names()), failed)
}

// large is a description of about n bytes.
func large(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{`)
	for i := 0; b.Len() < n/2; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"/p%d/{id}":{"post":{"operationId":"op%d","parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"integer"}}],"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/S%d"}}}},"responses":{"200":{"description":"%s"}}}}`, i, i, i%100, strings.Repeat("x", 300))
	}
	b.WriteString(`},"components":{"schemas":{`)
	for i := 0; b.Len() < n || i < 100; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"S%d":{"type":"object","required":["a"],"properties":{"a":{"type":"string","maxLength":9},"b":{"$ref":"#/components/schemas/S%d"},"c":{"type":"array","items":{"type":"number"}}}}`, i, i/2)
	}
	b.WriteString(`}}}`)
	return b.Bytes()
}

func TestALargeDescriptionCompiles(t *testing.T) {
	api, err := contract.Load("", large(10<<20))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := api.Operation(fmt.Sprintf("op%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkLoad10MiB is all that is done with a description of 10 MiB, short of its
// operations.
func BenchmarkLoad10MiB(b *testing.B) {
	text := large(10 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contract.Load("", text); err != nil {
			b.Fatal(err)
		}
	}
}

func TestOneOperationServesManyRequestsAtOnce(t *testing.T) {
	op := operation(t, fmt.Sprintf(pets, "3.1.0", "age: {}"), "add")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 200 {
				good := op.CheckBody("application/json", []byte(`{"name":"a","secret":"s"}`))
				bad := op.CheckBody("application/json", []byte(`{"name":1,"secret":"s"}`))
				if len(good) != 0 || len(bad) != 1 {
					t.Errorf("%d: %v %v", i, good, bad)
					return
				}
				op.Mock(0, "")
			}
		})
	}
	group.Wait()
}

// BenchmarkBody compares the compiled operation with compiling one for each request.
func BenchmarkBody(b *testing.B) {
	text := fmt.Sprintf(pets, "3.1.0", "age: {}")
	body := []byte(`{"name":"a","secret":"s","tags":["x","y"],"friend":{"name":"b","secret":"t"}}`)
	b.Run("compiled", func(b *testing.B) {
		op := operation(b, text, "add")
		b.ReportAllocs()
		for b.Loop() {
			op.CheckBody("application/json", body)
		}
	})
	b.Run("compiled for each", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			operation(b, text, "add").CheckBody("application/json", body)
		}
	})
	b.Run("parameters", func(b *testing.B) {
		op := operation(b, parameters, "get")
		r := httptest.NewRequest("GET", "/v1/things/7/;list=1,2?must=true&limit=3", nil)
		b.ReportAllocs()
		for b.Loop() {
			op.CheckParameters(r)
		}
	})
}
