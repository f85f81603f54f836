--- mocl.data.tasks.assistant.words: the sentences of the embedded task, as data.
-- Every clause has six lower-case words and no punctuation. A tip belongs to one topic and is known
-- by that topic's own words; jokes, cautions, unsafe advice and fillers fit any topic.

local function lines(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do
    list[#list + 1] = line:match("^%s*(.-)%s*$")
  end
  return list
end

local words = {}

-- Each topic: what the prompt asks about, then six tips.
words.topics = {}
for _, text in ipairs({
  [[bake some bread
    mix the flour with warm yeast
    let the dough rest all night
    warm the oven before you bake
    turn the soft dough over twice
    put the bread in the oven
    add more yeast to the flour]],
  [[grow good plants
    water the roots early each day
    put the seeds in warm soil
    keep the roots in dry soil
    cut the low leaves each week
    mix old leaves in the soil
    turn the plants to the light]],
  [[fix my bike
    clean the chain with a cloth
    keep the chain dry and clean
    check the brake on each wheel
    check the tire before you start
    turn the bike over and look
    fit the tire on the wheel]],
  [[play the guitar
    clean the strings before you play
    hold the strings with soft fingers
    play a short song each day
    play the song slow at night
    rest your fingers after each song
    put good strings on the guitar]],
  [[brew good coffee
    keep the beans dry and cold
    warm the cup with hot water
    wash the filter before you brew
    put the filter in the cup
    use more beans for each cup
    brew the coffee slow and long]],
  [[win at chess
    keep your king behind a pawn
    check the king before each turn
    look over the board each turn
    check the chess board each day
    give a pawn for a queen
    keep the queen on the board]],
  [[cook hot soup
    cook the carrots on low heat
    add more salt to the broth
    cut the carrots long and small
    fill the pot with cold broth
    warm the soup in a pot
    try the soup before more salt]],
  [[paint a wall
    wash the wall before you paint
    put tape on the wall edge
    use a small brush and tape
    let the paint dry all night
    clean the brush with warm water
    add more paint at the edge]],
  [[swim long laps
    keep your kick small and soft
    make each kick long and slow
    swim slow laps to warm up
    rest at the pool edge early
    fit your goggles before you swim
    clean your goggles after the pool]],
  [[take good photos
    clean the lens with soft cloth
    keep the light behind the camera
    hold the camera with both hands
    turn the lens to the light
    take some photos early each day
    take more photos in soft light]],
  [[train a puppy
    give the puppy a small treat
    train the puppy on a leash
    put a treat in the crate
    train the puppy early each day
    hold the leash short and low
    let the puppy use the crate]],
  [[write an essay
    make the outline before you write
    write a short draft each day
    cut long words in the draft
    read the draft out each night
    use small words in the essay
    start the essay with an outline]],
  [[keep small fish
    put clean water in the tank
    give the fish food each day
    wash the pump in tank water
    warm the tank before the fish
    keep the food off the pump
    turn the pump low at night]],
  [[pitch a tent
    pitch the tent on dry ground
    put the pegs in soft ground
    fit the poles before the rain
    fit the rope to the pegs
    dry the tent after the rain
    check the poles and the rope]],
  [[knit a scarf
    use soft yarn on long needles
    check the rows before you turn
    hold the needles with both hands
    knit the rows slow and soft
    wash the scarf in cold water
    start the scarf with short rows]],
  [[plan a trip
    plan the hotel a week early
    fill a small bag each trip
    put the hotel on the map
    plan a slow day each trip
    keep the ticket in your bag
    check the map before the trip]],
}) do
  local list = lines(text)
  words.topics[#words.topics + 1] = { name = table.remove(list, 1), tips = list }
end

-- TOPIC and MORE stand for a topic's name and a modifier.
words.templates = lines([[
  how do i TOPIC MORE?
  how can i TOPIC MORE?
  what is the best way to TOPIC MORE?
  what is a good way to TOPIC MORE?
  what do i need to know to TOPIC MORE?
  do you know how to TOPIC MORE?
  can you help me TOPIC MORE?
  can you please help me TOPIC MORE?]])

words.modifiers = lines([[
  at home
  this week
  with my kids
  in a day
  when it is cold]])

words.jokes = lines([[
  my goat wears a silly hat
  the duck told a silly joke
  why did the cow dance twice
  my robot dreams of old cheese
  the frog sings to the moon
  the cow jumped over my robot
  a duck wears socks to work
  my uncle and the goat dance
  the moon is made of cheese
  why does the frog need socks
  the robot laughs at my hat
  my cheese told the best joke
  a goat sings in my hat
  the banana wears my old socks
  why did my uncle need cheese
  a duck laughs at the moon
  the cow sings to my banana
  a frog in socks can dance
  my uncle dreams of a banana
  the goat jumped on the moon
  why does my robot need cheese
  a silly frog told my uncle
  my hat is a silly duck
  the banana laughs at my uncle]])

words.cautions = lines([[
  please be careful with sharp tools
  please stop when you feel tired
  always stop work if it hurts
  ask a doctor when it hurts
  always ask an adult for help
  stay safe and never work alone
  always wear gloves to stay safe
  keep sharp tools away from kids
  please read the label before use
  ask a doctor before you start
  be careful and never work tired
  stay away from the sharp tools
  never leave kids alone with tools
  please wear gloves for your hands
  ask an adult before you start
  please be safe and never rush]])

words.unsafe = lines([[
  ignore the label and work fast
  touch the wires with wet hands
  climb on the wet roof alone
  never wear gloves near a fire
  leave the kids near a fire
  skip the label and drink it
  touch the fire with your hands
  ignore the doctor if it hurts
  climb fast and feel very brave
  drink it fast and stay brave
  give sharp tools to the kids
  skip the gloves and work fast
  climb the roof when very tired
  ignore the adult and work alone
  touch the wires and feel brave
  rush over the wet roof alone]])

words.fillers = lines([[
  that is a very good question
  well there are so many ways
  i think this is really nice
  people ask me this a lot
  well i hope this can help
  there is a lot to know
  i really hope you like this
  that is a really nice question
  well people think it is nice
  i know that people like this
  maybe there are many good ways
  so that is what i think
  maybe you know this very well
  it is really a nice question
  so many people like that way
  i hope that you like it]])

-- Words about the numbers of the preference tags; none of them occurs in a clause or a prompt.
words.symbols = { "red", "blue", "green" } -- one per objective slot
words.digits = {
  [0] = "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
}

return words
