// Package tasks are the tasks that the worker brings along. What they read and
// write is Redis's; each may run twice, or again after a failure, with the same
// outcome. Records that cannot be read are skipped, counted by what is wrong
// with them, and reported in the result.
//
// # What they read
//
// Records are JSON objects in lists, newest at either end. Of a list the newest
// 100,000 are read, 200 at a time, and reading ends after two pages that hold
// only what is too old. A timestamp is RFC 3339 (without a zone: UTC) or Unix
// seconds or milliseconds, as a number or as text. An id is a string or an
// integer; records with the same id count once, and without an id those do that
// are the same to the letter.
//
//	chat:messages:<user>    LIST  {"id", "role", "content", "timestamp"}
//	activity:music:<user>   LIST  {"id", "genre", "minutes", "timestamp"}
//	activity:video:<user>   LIST  the same
//	activity:games:<user>   LIST  the same
//
// An activity's genre may also be called genres or category, and be an array.
// Its length in minutes may be absent, or be given as duration_seconds or
// duration_ms; it counts from 1 to 180 minutes, and where it is absent as 4
// minutes of music, 30 of video or 30 of games. A user's id has at most 256
// bytes and no control characters.
//
// # What they write
//
//	personality:profile:<user>  HASH
//	  sentiment_mean            mean compound score, -1.0000 to 1.0000; absent without messages
//	  sentiment_label           positive, neutral or negative; absent without messages
//	  sentiment_positive        messages of that label; so sentiment_neutral, sentiment_negative
//	  messages_analyzed         their sum
//	  sentiment_window          as the call had it: 24h
//	  sentiment_scorer          lexicon or openai
//	  sentiment_updated_at      RFC 3339
//	  openness                  0.0000 to 1.0000; so conscientiousness, extraversion,
//	                            agreeableness, neuroticism
//	  personality_days          days with activity that they rest on
//	  activity_through          the last of them: 2026-01-31
//	  personality_settled       the tasks' own state, in JSON
//	  personality_updated_at    RFC 3339
//	personality:trend:<user>    HASH of at most 90 days, by date in UTC
//	  2026-01-31                {"mean", "label", "messages", "positive", "neutral", "negative"}
//
// A run's fields are written at once. A day of the trend is replaced, never
// added to, by the run that saw at least as many of its messages. A second run
// over the same messages within the same window changes sentiment_updated_at,
// and nothing else; by the scorer openai, as far as the model repeats itself.
//
// # From activity to personality
//
// An estimate is the share of the population that is expected to have less of
// the trait: 0.5 says nothing. Within a day and a kind of activity, the share of
// the time that went to a group of genres is taken for the preference for that
// group, in standard deviations; multiplied by the group's weight, which stands
// for a correlation, it is the expected deviation of the trait; kinds count
// alike; and the normal distribution turns the sum into a share. Weights are
// small, since the relations are: nobody leaves the middle by much, and no
// decision about a person should rest on it. The genres of each group are in
// weights.go.
//
//	music  reflective and complex          openness +.10
//	       intense and rebellious          openness +.10, conscientiousness -.10
//	       upbeat and conventional         extraversion, agreeableness, conscientiousness +.10
//	       energetic and rhythmic          extraversion +.10
//	       mellow                          agreeableness, openness +.10
//	video  communal                        agreeableness, conscientiousness, extraversion +.10, openness -.10
//	       aesthetic                       openness +.10
//	       dark                            agreeableness -.10
//	       thrilling                       none
//	       cerebral                        openness +.10
//	games  party, music, casual            extraversion +.10
//	       sport, racing, simulation, fighting  conscientiousness +.10
//	       action-adventure, platform      openness +.10
//	       role-playing, strategy          none
//	       action, shooter                 extraversion +.10, neuroticism -.10
//
// Every .10 stands for a direction that the named source reports, known from its
// abstract or from summaries and quotations of it. None of their figures could
// be verified in print, and none is used: the weight is one for all, of the size
// that Schäfer and Mehlhorn found few relations to exceed. Cantador,
// Fernández-Tobías and Bellogín's scores of films' and series' audiences (2013)
// would be finer than these groups; their tables could not be read. Sources:
//
//   - Music, groups: P. J. Rentfrow, S. D. Gosling, "The Do Re Mi's of Everyday
//     Life", Journal of Personality and Social Psychology 84 (2003). Directions,
//     and the mellow group: D. M. Greenberg et al., "Universals and Variations in
//     Musical Preferences", Journal of Personality and Social Psychology 122
//     (2022), whose styles sophisticated, intense, unpretentious and contemporary
//     stand for the four groups in the order above; for extraversion and upbeat
//     music Rentfrow and Gosling.
//   - Music, size: T. Schäfer, C. Mehlhorn, "Can Personality Traits Predict
//     Musical Style Preferences? A Meta-Analysis", Personality and Individual
//     Differences 116 (2017): 6 of 30 mean correlations reach .1.
//   - Video: P. J. Rentfrow, L. R. Goldberg, R. Zilca, "Listening, Watching, and
//     Reading", Journal of Personality 79 (2011), which found no consistent trait
//     in those who prefer the thrilling.
//   - Games: G. Peever, D. Johnson, J. Gardner, "Personality and Video Game Genre
//     Preferences", Interactive Entertainment (2012), from a quotation without
//     its title that matches it; dancing games also C. deGraft-Johnson et al.,
//     "Relating Five Factor Personality Traits to Video Game Preference",
//     University of Maryland (2013). Action: B. Braun et al., "Personality and
//     Video Gaming", Computers in Human Behavior 55 (2016).
//
// Assignments of further genres to these groups, of catalogues' names ("indie",
// "reggaeton", "people and blogs"), are this package's.
//
// # Over time
//
// Estimates start at 0.5, and each day with activity, in order, moves them
// towards its own by 1 - 2^(-1/14): after 14 such days, what was believed before
// counts half. Days without activity change nothing. A day settles when the day
// after it is over: it is then part of personality_settled, whose last day says
// which activities have had their say, so that none counts twice. Today and
// yesterday are counted anew in each run, on top of that. A second run over the
// same activities therefore changes personality_updated_at and nothing else, and
// one on a later day changes of the estimates nothing either. What arrives for a
// settled day comes too late: it is reported with activities_settled.
package tasks
