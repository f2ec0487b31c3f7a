package contracts_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/contracts"
	"github.com/keywarden/keywarden/pkg/spec"
)

const text = `{"openapi":"3.1.0","info":{"title":"d","version":"1"},"paths":{"/x":{"get":{"operationId":"get","responses":{}}}}}`

func TestWhatWasCompiledLivesOnWithItsText(t *testing.T) {
	file := filepath.Join(t.TempDir(), "api.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	of := &spec.Operation{API: "a", ID: "get"}
	first := contracts.New([]spec.API{{Name: "a", OpenAPI: text}}, nil)
	one, err := first.Operation(of)
	if err != nil || one == nil {
		t.Fatal(err)
	}
	second := contracts.New([]spec.API{{Name: "a", OpenAPIFile: file}}, first.Kept())
	if two, err := second.Operation(of); err != nil || two != one {
		t.Errorf("the same text is compiled again: %v", err)
	}
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := contracts.New([]spec.API{{Name: "a", OpenAPIFile: file}}, second.Kept())
	if three, err := third.Operation(of); err != nil || three == one {
		t.Errorf("another text is not read: %v", err)
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	d := contracts.New([]spec.API{
		{Name: "a", OpenAPI: text}, {Name: "gone", OpenAPIFile: filepath.Join(t.TempDir(), "none")}, {Name: "bad", OpenAPI: "x"},
	}, nil)
	for _, of := range []spec.Operation{{API: "a", ID: "put"}, {API: "b", ID: "get"}, {API: "gone", ID: "get"}, {API: "bad", ID: "get"}} {
		if op, err := d.Operation(&of); err == nil || op != nil {
			t.Errorf("%v: %v, %v", of, op, err)
		}
	}
	if op, err := d.Operation(nil); op != nil || err != nil {
		t.Errorf("no operation: %v, %v", op, err)
	}
}
