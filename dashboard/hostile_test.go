package dashboard

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/weir-dev/weir/worker/celery"
)

// A result may be anything that somebody's task returns.
func TestWhatIsShownOfATaskIsBounded(t *testing.T) {
	t.Parallel()
	long := json.RawMessage(`["` + strings.Repeat("x", 4*maxShownBytes) + `"]`)
	var d taskData
	d.read(&celery.Result{State: celery.Failure, Args: long, Kwargs: long, Error: string(long), Traceback: string(long)})
	for what, text := range map[string]string{"arguments": d.Args, "named arguments": d.Kwargs, "error": d.Error, "traceback": d.Traceback} {
		if len(text) > maxShownBytes+100 {
			t.Errorf("%d bytes of the %s are shown", len(text), what)
		}
	}
	const nested = 9000 // of what encoding/json reads
	if deep := strings.Repeat("[", nested) + strings.Repeat("]", nested); len(pretty(deep)) > len(deep) {
		t.Errorf("%d bytes become %d", len(deep), len(pretty(deep)))
	}
	if got := pretty(`{"a":["[[[[[[[[[[[[[[[[[[[[[\"[[[[[["]}`); !strings.Contains(got, "\n  \"a\": [\n    \"[") {
		t.Errorf("brackets in a text count as nested: %s", got)
	}
}
