package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log"
	"log/slog"
	"testing"

	"github.com/keywarden/keywarden/pkg/telemetry"
)

func TestStandardLogBecomesLinesOfOurs(t *testing.T) {
	flags, writer := log.Flags(), log.Writer()
	t.Cleanup(func() {
		log.SetFlags(flags)
		log.SetOutput(writer)
	})
	var out bytes.Buffer
	tel, err := telemetry.Setup(t.Context(), telemetry.Options{Logger: telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.Shutdown(t.Context()) }()
	log.Printf("said by a library\nin two lines %s about %q", "\x1b[31m", "somebody's data")
	var line struct{ Level, Msg string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Level != "WARN" || line.Msg == "" {
		t.Errorf("%v: %s", err, out.Bytes())
	}
	if bytes.Contains(out.Bytes(), []byte("somebody")) {
		t.Errorf("what was quoted is in the log: %s", out.Bytes())
	}
}
