package celery

import (
	_ "embed" // the scripts

	"github.com/redis/go-redis/v9"
)

// The scripts; each says what its KEYS and ARGV are.
var (
	//go:embed take.lua
	takeSource string
	//go:embed finish.lua
	finishSource string
	//go:embed started.lua
	startedSource string
	//go:embed refresh.lua
	refreshSource string
	//go:embed overdue.lua
	overdueSource string
	//go:embed restore.lua
	restoreSource string
	//go:embed enqueue.lua
	enqueueSource string
	//go:embed occurrence.lua
	occurrenceSource string

	takeScript       = redis.NewScript(takeSource)
	finishScript     = redis.NewScript(finishSource)
	startedScript    = redis.NewScript(startedSource)
	refreshScript    = redis.NewScript(refreshSource)
	overdueScript    = redis.NewScript(overdueSource)
	restoreScript    = redis.NewScript(restoreSource)
	enqueueScript    = redis.NewScript(enqueueSource)
	occurrenceScript = redis.NewScript(occurrenceSource)
)
