package tasks

// trait is one of the Big Five.
type trait int

const (
	openness trait = iota
	conscientiousness
	extraversion
	agreeableness
	neuroticism
	traitCount
)

// traitFields are the profile's, in the order of the traits.
var traitFields = [traitCount]string{"openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism"}

// reported stands for a relation of which a source reports the direction: none
// of their figures could be verified in print. It is as large as few relations
// of music and personality are: 6 of 30 in Schäfer and Mehlhorn's meta-analysis
// (2017).
const reported = 0.10

// group of genres that a source found to go together, and what it tells of who
// prefers it: a weight a trait, in the place of a correlation.
type group struct {
	name    string
	source  string
	weights map[trait]float64
	genres  []string
}

// weightings of what people listen to, watch and play; the package's
// documentation names the sources in full. A group without weights is one whose
// source found no relation: it is evidence of nothing in particular, and counts
// as such.
var weightings = map[string][]group{
	"music": {
		{
			name: "reflective and complex", source: "Rentfrow & Gosling 2003; Greenberg et al. 2022 (sophisticated)",
			weights: map[trait]float64{openness: reported},
			genres:  []string{"classical", "jazz", "blues", "folk", "bluegrass", "opera", "world", "avant garde", "piano", "orchestra", "instrumental"},
		},
		{
			name: "intense and rebellious", source: "Rentfrow & Gosling 2003; Greenberg et al. 2022 (intense)",
			weights: map[trait]float64{openness: reported, conscientiousness: -reported},
			genres:  []string{"rock", "alternative", "metal", "heavy metal", "punk", "hardcore", "grunge", "indie"},
		},
		{
			name: "upbeat and conventional", source: "Rentfrow & Gosling 2003; Greenberg et al. 2022 (unpretentious)",
			weights: map[trait]float64{extraversion: reported, agreeableness: reported, conscientiousness: reported},
			genres:  []string{"pop", "country", "religious", "gospel", "christian", "worship", "soundtrack", "soundtracks", "bollywood", "filmi", "show tunes"},
		},
		{
			name: "energetic and rhythmic", source: "Rentfrow & Gosling 2003; Greenberg et al. 2022 (contemporary)",
			weights: map[trait]float64{extraversion: reported},
			genres:  []string{"rap", "hip hop", "trap", "soul", "funk", "dance", "electronic", "electronica", "edm", "house", "techno", "drum and bass", "dubstep", "reggaeton", "latin"},
		},
		{
			name: "mellow", source: "Greenberg et al. 2022 (mellow)",
			weights: map[trait]float64{agreeableness: reported, openness: reported},
			genres:  []string{"soft rock", "easy listening", "acoustic", "ambient", "chill", "chillout", "lo fi", "lofi", "r and b", "rnb", "singer songwriter"},
		},
	},
	"video": {
		{
			name: "communal", source: "Rentfrow, Goldberg & Zilca 2011",
			weights: map[trait]float64{agreeableness: reported, conscientiousness: reported, extraversion: reported, openness: -reported},
			genres:  []string{"romance", "romantic comedy", "family", "reality", "reality tv", "soap", "soap opera", "talk show", "game show", "cooking", "music", "comedy", "kids", "people and blogs", "howto and style", "lifestyle"},
		},
		{
			name: "aesthetic", source: "Rentfrow, Goldberg & Zilca 2011",
			weights: map[trait]float64{openness: reported},
			genres:  []string{"arts", "art", "arts and humanities", "foreign", "classic", "classics", "opera", "theatre", "independent", "arthouse"},
		},
		{
			name: "dark", source: "Rentfrow, Goldberg & Zilca 2011",
			weights: map[trait]float64{agreeableness: -reported},
			genres:  []string{"horror", "cult", "erotic", "late night", "alternative"},
		},
		{
			name: "thrilling", source: "Rentfrow, Goldberg & Zilca 2011",
			genres: []string{"action", "adventure", "thriller", "science fiction", "sci fi", "spy", "war", "crime", "mystery", "suspense", "fantasy", "western"},
		},
		{
			name: "cerebral", source: "Rentfrow, Goldberg & Zilca 2011",
			weights: map[trait]float64{openness: reported},
			genres:  []string{"documentary", "news", "news and politics", "business", "education", "educational", "science", "science and technology", "history", "biography", "technology", "health"},
		},
	},
	"games": {
		{
			name: "party, music and casual", source: "Peever, Johnson & Gardner 2012; deGraft-Johnson et al. 2013 (dancing)",
			weights: map[trait]float64{extraversion: reported},
			genres:  []string{"party", "music", "rhythm", "dance", "casual"},
		},
		{
			name: "sport, racing, simulation and fighting", source: "Peever, Johnson & Gardner 2012",
			weights: map[trait]float64{conscientiousness: reported},
			genres:  []string{"sport", "sports", "racing", "flight simulation", "simulation", "simulator", "fighting"},
		},
		{
			name: "action-adventure and platform", source: "Peever, Johnson & Gardner 2012",
			weights: map[trait]float64{openness: reported},
			genres:  []string{"action adventure", "platform", "platformer", "adventure"},
		},
		{
			name: "role-playing and strategy", source: "Peever, Johnson & Gardner 2012: nothing beyond p < .1",
			genres: []string{"role playing", "rpg", "mmorpg", "action rpg", "strategy", "turn based strategy", "real time strategy", "rts"},
		},
		{
			name: "action", source: "Braun et al. 2016",
			weights: map[trait]float64{extraversion: reported, neuroticism: -reported},
			genres:  []string{"action", "shooter", "fps", "first person shooter", "third person shooter", "battle royale"},
		},
	},
}

// unitMinutes is how much an activity weighs that does not say how long it
// lasted: about a song, an episode, a session. It matters only beside activities
// of the same kind that say it.
var unitMinutes = map[string]float64{"music": 4, "video": 30, "games": 30}

// kinds of activity, in a fixed order: sums of floating-point numbers depend on
// theirs.
var kinds = []string{"music", "video", "games"}
