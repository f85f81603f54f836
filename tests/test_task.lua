local T = require "t"
local assistant = require "mocl.data.tasks.assistant"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local words = require "mocl.data.tasks.assistant.words"

local function split(text)
  local list = {}
  for word in text:gmatch("%S+") do
    list[#list + 1] = word
  end
  return list
end

local function join(...)
  return table.concat({ ... }, " ")
end

-- the topic of the task's first training prompt, and its tips
local function scene(task)
  local prompt = task.train_prompts[1]
  local topic = task:topic(prompt)
  return prompt, words.topics[topic].tips, words.topics[topic % #words.topics + 1].tips
end

T.test("the word lists are what they say", function()
  local seen, distinct, letters, n_words = {}, {}, 0, 0
  local function count(word)
    T.ok(word:find("^%l+$"), "a lower-case word: " .. word)
    if not distinct[word] then
      distinct[word], n_words, letters = true, n_words + 1, letters + #word
    end
  end
  local function add(list, at_least)
    T.ok(#list >= at_least)
    for _, clause in ipairs(list) do
      T.ok(not seen[clause], clause .. " is listed twice")
      seen[clause] = true
      T.eq(#split(clause), 6, clause)
      for word in clause:gmatch("%S+") do
        count(word)
      end
    end
  end
  T.eq(#words.topics, 16)
  local topics_with = {} -- word -> set of the topics whose tips have it
  for t, topic in ipairs(words.topics) do
    T.eq(#topic.tips, 6)
    add(topic.tips, 6)
    for _, word in ipairs(split(table.concat(topic.tips, " "))) do
      topics_with[word] = topics_with[word] or {}
      topics_with[word][t] = true
    end
  end
  for t, topic in ipairs(words.topics) do
    for _, tip in ipairs(topic.tips) do
      local own = false
      for word in tip:gmatch("%S+") do
        own = own or next(topics_with[word], t) == nil and next(topics_with[word]) == t
      end
      T.ok(own, tip .. " has a word that only its topic has")
    end
  end
  add(words.jokes, 24)
  add(words.cautions, 16)
  add(words.unsafe, 16)
  add(words.fillers, 16)
  local task = assistant.new {}
  for _, list in ipairs { task.train_prompts, task.test_prompts } do
    for _, prompt in ipairs(list) do
      for word in prompt:gmatch("%l+") do
        count(word)
      end
    end
  end
  local others = { "meter", "spell", "larger", "equal" }
  for _, list in ipairs { words.symbols, words.digits, others } do
    for i = list[0] and 0 or 1, #list do
      T.ok(not distinct[list[i]], list[i] .. " occurs in a clause or a prompt")
      count(list[i])
    end
  end
  T.ok(n_words <= 280, n_words .. " distinct words")
  T.ok(letters / n_words <= 5, "mean length " .. letters / n_words)
end)

T.test("640 different prompts, 192 of them held out", function()
  local task = assistant.new { seed = 3 }
  T.eq(#task.train_prompts, 448)
  T.eq(#task.test_prompts, 192)
  local all, per_topic = {}, {}
  for _, list in ipairs { task.train_prompts, task.test_prompts } do
    for _, prompt in ipairs(list) do
      T.ok(not all[prompt], prompt .. " occurs twice")
      all[prompt] = true
      local n = #split(prompt)
      T.ok(n >= 8 and n <= 14, prompt)
      T.eq(prompt:sub(-1), "?")
      per_topic[task:topic(prompt)] = (per_topic[task:topic(prompt)] or 0) + 1
    end
  end
  for topic = 1, 16 do
    T.eq(per_topic[topic], 40)
  end
  -- no prompt hides inside another, so that a search for held-out prompts in texts means something
  for a in next, all do
    for b in next, all do
      T.ok(a == b or not a:find(b, 1, true), b .. " is part of " .. a)
    end
  end
  T.eq(assistant.new({ seed = 3 }).test_prompts, task.test_prompts)
  T.ok(table.concat(assistant.new({ seed = 4 }).test_prompts) ~= table.concat(task.test_prompts))
end)

T.test("no held-out prompt in any training text, unless it is asked for", function()
  local task = assistant.new { seed = 1 }
  local held = {}
  for _, prompt in ipairs(task.test_prompts) do
    held[prompt] = true
  end
  local used = 0
  local function check(text)
    -- a prompt reaches from its first word behind the tags to the question mark
    local prompt = preference.strip(text):gsub("^meter ", ""):match("^[^?]*%?")
    if prompt then
      used = used + 1
      T.ok(not held[prompt], "held out: " .. text)
      T.ok(task.topic_of[prompt], "unknown prompt: " .. text)
      T.ok(not text:find("?", text:find("?", 1, true) + 1, true), "two prompts: " .. text)
    end
  end
  for _, text in ipairs(task:pretrain_texts(rng.new(1, "a"), 4000)) do
    check(text)
  end
  for _, example in ipairs(task:sft_examples(rng.new(1, "b"), 4000)) do
    check(example.prompt)
  end
  for _, pair in ipairs(task:pairs(rng.new(1, "c"), "helpful", 4000)) do
    check(pair.prompt)
  end
  T.ok(used > 10000, used .. " prompts seen")
  for _, pair in ipairs(task:pairs(rng.new(1, "d"), "humor", 100, "test")) do
    T.ok(held[pair.prompt])
  end
end)

T.test("what the rule pays, in the three shapes", function()
  local worth = {
    diminishing = { 0, 1, 1.8, 2.45, 3 },
    equal = { 0, 0.75, 1.5, 2.25, 3 },
    rising = { 0, 0.45, 1.05, 1.9, 3 },
  }
  for shape, value in next, worth do
    local task = assistant.new { trade_off = shape }
    local prompt, tips, others = scene(task)
    local J, C, U, F = words.jokes, words.cautions, words.unsafe, words.fillers
    local function scores(...)
      local s, malformed = task:score(prompt, join(...))
      return { s.humor, s.helpful, s.harmless, malformed }
    end
    local v = value
    T.near(scores(F[1], F[2], F[3], F[4]), { 0, 0, 0, 0 }, 1e-12)
    T.near(scores(J[1], J[2], J[3], J[4]), { v[5], 0, 0, 0 }, 1e-12)
    T.near(scores(tips[1], tips[2], tips[3], tips[4]), { 0, v[5], 0, 0 }, 1e-12)
    T.near(scores(C[1], C[2], C[3], C[4]), { 0, 0, v[5], 0 }, 1e-12)
    T.near(scores(J[1], tips[2], C[3], tips[4]), { v[2], v[3], v[2], 0 }, 1e-12)
    T.near(scores(J[1], J[1], J[1], J[1]), { v[2], 0, 0, 0 }, 1e-12, "repeats do not count")
    T.near(scores(J[1], J[2], J[1], tips[1]), { v[3], v[2], 0, 0 }, 1e-12)
    T.near(scores(others[1], tips[1], others[2], tips[2]), { 0, v[3] - 1, 0, 0 }, 1e-12)
    T.near(scores(U[1], C[1], U[1], C[2]), { 0, 0, v[3] - 2, 0 }, 1e-12, "each unsafe one costs")
    T.near(scores(J[1] .. " hat", tips[1], tips[2], tips[3]), -- every later slot is shifted
      { v[2] - 2, -2, -2, 4 }, 1e-12)
    -- half a joke, half another
    local half = J[1]:match("^%l+ %l+ %l+ ") .. J[2]:match("%l+ %l+ %l+$")
    T.near(scores(half, J[1], J[2], J[3]), { v[4] - 0.5, -0.5, -0.5, 1 }, 1e-12)
  end
end)

T.test("the rule reads any text", function()
  local task = assistant.new {}
  local prompt, tips = scene(task)
  local J = words.jokes
  local function malformed(text)
    return select(2, task:score(prompt, text))
  end
  T.eq(malformed(""), 4)
  T.eq(malformed("hat"), 4)
  T.eq(malformed(" \n\t "), 4)
  T.eq(malformed(join(J[1], J[2])), 2)
  T.eq(malformed(join(J[1], J[2], J[3], J[4])), 0)
  T.eq(malformed("  " .. J[1] .. "\n" .. J[2] .. " " .. join(J[3], J[4]) .. " "), 0)
  T.eq(malformed(join(J[1], J[2], J[3], J[4], "the")), 1)
  T.eq(malformed(join(J[1], J[2], J[3], J[4], J[5])), 1, "a fifth clause is one too many")
  T.eq(malformed(join(J[1], J[2], J[3], J[4], J[5], "the")), 2)
  T.eq(malformed(join(J[1], J[2], J[3], "my goat wears a silly")), 1)
  T.eq(malformed(J[1]:upper() .. " " .. join(J[2], J[3], J[4])), 1)
  T.eq(malformed(("hat \0\255 "):rep(1000)), 4)
  T.near(task:score(prompt, join(J[1], J[2], J[3], J[4], J[5])).humor, 2.5, 1e-12)
  local tagged = preference.relabel(prompt, { 0.3, 0.7 })
  T.eq(task:score(tagged, join(J[1], tips[1], J[2], tips[2])),
    task:score(prompt, join(J[1], tips[1], J[2], tips[2])))
  T.raises("'what is love%?' is not a prompt of this task", task.score, task, "what is love?", "")
end)

T.test("describe names each slot", function()
  local task = assistant.new {}
  local prompt, tips, others = scene(task)
  T.eq(task:describe(join(tips[1], others[1], words.jokes[1], words.jokes[1]), prompt),
    { "tip", "off_topic", "joke", "repeat" })
  T.eq(task:describe(join(words.cautions[1], words.unsafe[1], words.unsafe[1], words.fillers[1]),
    prompt), { "caution", "unsafe", "unsafe", "filler" })
  T.eq(task:describe(words.jokes[1] .. " why", prompt),
    { "joke", "malformed", "malformed", "malformed" })
end)

T.test("the front: convex, straight or concave, as the trade-off says", function()
  for shape, sign in next, { diminishing = 1, equal = 0, rising = -1 } do
    local task = assistant.new { trade_off = shape }
    local prompt, tips, others = scene(task)
    -- every way to fill the four slots by kinds, "repeat" and "malformed" included
    local points = {}
    local function fill(list, n_jokes, n_tips)
      if #list == 4 then
        local s = task:score(prompt, table.concat(list, " "))
        points[#points + 1] = { s.humor, s.helpful }
        return
      end
      for _, choice in ipairs {
        { words.jokes[n_jokes + 1], 1, 0 }, { tips[n_tips + 1], 0, 1 }, { words.jokes[1], 0, 0 },
        { others[1], 0, 0 }, { words.fillers[1], 0, 0 }, { words.unsafe[1], 0, 0 },
        { "the goat jumped on the oven", 0, 0 },
      } do
        local longer = table.move(list, 1, #list, 1, {})
        longer[#longer + 1] = choice[1]
        fill(longer, n_jokes + choice[2], n_tips + choice[3])
      end
    end
    fill({}, 0, 0)
    T.eq(#points, 7 ^ 4)
    local front, seen = {}, {}
    for _, a in ipairs(points) do
      local dominated = false
      for _, b in ipairs(points) do
        if b[1] >= a[1] - 1e-9 and b[2] >= a[2] - 1e-9
          and (b[1] > a[1] + 1e-9 or b[2] > a[2] + 1e-9) then
          dominated = true
          break
        end
      end
      local key = ("%.6f %.6f"):format(a[1], a[2])
      if not dominated and not seen[key] then
        seen[key] = true
        front[#front + 1] = a
      end
    end
    table.sort(front, function(a, b) return a[1] < b[1] end)
    T.eq(#front, 5, shape)
    T.near(front[1], { 0, 3 }, 1e-12)
    T.near(front[5], { 3, 0 }, 1e-12)
    for i = 2, 4 do
      -- on which side of the chord of its neighbours; positive is outside
      local a, b, c = front[i - 1], front[i], front[i + 1]
      local side = (c[1] - a[1]) * (b[2] - a[2]) - (c[2] - a[2]) * (b[1] - a[1])
      if sign == 0 then
        T.near(side, 0, 1e-9)
      else
        T.ok(sign * side > 0.05, ("%s, point %d: side %g"):format(shape, i, side))
      end
    end
  end
end)

-- the examples of task:sft_examples that are answers, and those that read the numbers back
local function sft_parts(task, r, n)
  local answers, lines = {}, {}
  for _, example in ipairs(task:sft_examples(r, n)) do
    table.insert(example.prompt:find("%f[%l]meter%f[%L]") and lines or answers, example)
  end
  return answers, lines
end

T.test("SFT examples: 24 words, the stated mixture, no relation to the tags", function()
  local task = assistant.new {}
  local answers = sft_parts(task, rng.new(2, "sft"), 8000)
  local n, shares, with_humor = #answers, {}, { { 0, 0 }, { 0, 0 } }
  local most_jokes = 0
  T.ok(math.abs(n - 6000) < 200, n .. " answers")
  for _, example in ipairs(answers) do
    T.eq(#split(example.response), 24)
    T.eq(example.response:sub(1, 1), " ")
    local prompt, p = preference.strip(example.prompt)
    T.eq(#p, 2)
    local jokes, kinds = 0, task:describe(example.response, prompt)
    T.eq(#kinds, 4)
    for _, kind in ipairs(kinds) do
      shares[kind] = (shares[kind] or 0) + 1 / (4 * n)
      jokes = jokes + (kind == "joke" and 1 or 0)
    end
    most_jokes = math.max(most_jokes, jokes)
    local side = with_humor[p[1] > 0.5 and 1 or 2]
    side[1], side[2] = side[1] + jokes, side[2] + 1
  end
  for kind, share in next, { tip = 0.291, joke = 0.194, caution = 0.146, filler = 0.194,
    off_topic = 0.097, unsafe = 0.049, malformed = 0.03 } do
    T.ok(math.abs(shares[kind] - share) < 0.012, ("%s: %.3f, want %.3f"):format(kind, shares[kind],
      share))
  end
  T.eq(shares["repeat"], nil)
  T.eq(most_jokes, 4, "four jokes do occur")
  local difference = with_humor[1][1] / with_humor[1][2] - with_humor[2][1] / with_humor[2][2]
  T.ok(math.abs(difference) < 0.08, "jokes per answer differ by " .. difference)
end)

T.test("SFT examples that read the numbers back", function()
  for _, weights in ipairs { 2, 3 } do
    local task = assistant.new { weights = weights }
    local _, lines = sft_parts(task, rng.new(3, "sft"), 8000)
    local sum, expected, behind_answer, in_front, longest = 0, 0, 0, 0, 0
    for _, example in ipairs(lines) do
      local text, p = preference.strip(example.prompt)
      T.eq(#p, weights)
      local asked = text:match("^meter (.*)$")
      in_front = in_front + (asked and 1 or 0)
      asked = asked or text:match("^(.*) meter$")
      local prompt, behind = asked:match("^(.*%?)(.*)$")
      T.ok(task.topic_of[prompt], text)
      local said = #split(behind)
      T.eq(said % 6, 0)
      longest, behind_answer = math.max(longest, said), behind_answer + (said > 0 and 1 or 0)
      local list, red = split(example.response), 0
      T.ok(#list >= 10 and #list <= 20)
      for _, word in ipairs(list) do
        T.ok(word == "red" or word == "blue" or weights == 3 and word == "green", word)
        red = red + (word == "red" and 1 or 0)
      end
      sum, expected = sum + red / #list, expected + p[1]
    end
    T.ok(math.abs(sum - expected) / #lines < 0.02, "share of red: " .. sum / #lines)
    T.ok(math.abs(behind_answer / #lines - 0.5) < 0.05)
    T.ok(math.abs(in_front / #lines - 0.7) < 0.05)
    T.eq(longest, 24)
  end
  T.raises("weights must be an integer from 1 to 3, got 4", assistant.new, { weights = 4 })
end)

T.test("documents: two kinds, and lines that tell the truth about the numbers", function()
  for _, objectives in ipairs { { "humor", "helpful" }, { "humor", "helpful", "harmless" } } do
    local task = assistant.new { objectives = objectives }
    local n, numbers, plain = 4000, 0, 0
    local drawn, expected, symbols = 0, 0, 0
    for _, text in ipairs(task:pretrain_texts(rng.new(7, "texts"), n)) do
      T.ok(not text:find("  ", 1, true) and not text:find("^ ") and not text:find(" $"), text)
      local rest, p = preference.strip(text)
      local word, line = rest:match("%f[%l](meter) (.*)$")
      if not word then
        word, line = rest:match("%f[%l](spell) (.*)$")
      end
      if not word then
        word, line = rest:match("%f[%l](larger) (.*)$")
      end
      if not p then
        plain = plain + 1
        T.eq(word, nil)
      else
        T.eq(#p, #objectives)
      end
      if word then
        numbers = numbers + 1
        local list = split(line)
        if word == "meter" then
          T.ok(#list >= 10 and #list <= 20, line)
          for _, symbol in ipairs(list) do
            symbols, expected = symbols + 1, expected + p[1]
            drawn = drawn + (symbol == "red" and 1 or 0)
            T.ok(symbol ~= "red" or p[1] > 0)
          end
        elseif word == "spell" then
          local digits = {}
          for i = 0, 9 do
            digits[words.digits[i]] = i
          end
          T.eq(#list, 4 * #p)
          for j, w in ipairs(p) do
            T.eq(list[4 * j - 3], words.symbols[j])
            local a, b, c = table.unpack(list, 4 * j - 2, 4 * j)
            T.near(digits[a] + digits[b] / 10 + digits[c] / 100, w, 1e-12)
          end
        else
          local best = math.max(table.unpack(p))
          local at = {}
          for j, w in ipairs(p) do
            at[#at + 1] = w == best and words.symbols[j] or nil
          end
          T.eq(line, #at > 1 and "equal" or at[1])
        end
      end
    end
    T.near(numbers / n, 0.4, 0.03)
    T.near(plain / n, 0.15, 0.03)
    T.near(drawn / symbols, expected / symbols, 0.02)
  end
  T.eq(#assistant.new({ objectives = { "humor" } }):pretrain_texts(rng.new(0, "one"), 50), 50)
end)

T.test("pairs: the label agrees with the rule as often as a logistic choice does", function()
  for _, shape in ipairs { "diminishing", "equal", "rising" } do
    local task = assistant.new { trade_off = shape }
    for _, objective in ipairs { "humor", "helpful", "harmless" } do
      local list = task:pairs(rng.new(9, "pairs"), objective, 3000)
      T.eq(#list, 3000)
      local agree, expected, unequal, shortest, longest = 0, 0, 0, 24, 24
      for _, pair in ipairs(list) do
        T.ok(pair.chosen ~= pair.rejected)
        T.ok(pair.chosen:find("^ %l") and pair.rejected:find("^ %l"))
        T.eq(select(2, preference.strip(pair.prompt)), nil)
        local d = task:score(pair.prompt, pair.chosen)[objective]
          - task:score(pair.prompt, pair.rejected)[objective]
        local length = #split(pair.rejected)
        shortest, longest = math.min(shortest, length), math.max(longest, length)
        if math.abs(d) > 1e-9 then
          unequal = unequal + 1
          agree = agree + (d > 0 and 1 or 0)
          expected = expected + 1 / (1 + math.exp(-5 * math.abs(d)))
        end
      end
      local label = shape .. ", " .. objective
      T.ok(unequal / #list > 0.94, label .. ": ties are few")
      T.ok(agree / unequal > 0.93 and agree / unequal < 0.99, label .. ": " .. agree / unequal)
      T.ok(math.abs(agree - expected) / unequal < 0.02, label)
      T.ok(shortest <= 12 and longest >= 28, label .. ": texts cut short and run on")
    end
  end
end)

T.test("comparisons: different answers, all their pairs, labels of a logistic choice", function()
  local task = assistant.new {}
  for _, objective in ipairs { "humor", "helpful", "harmless" } do
    local agree, expected, compared, one_slot = 0, 0, 0, 0
    for _, row in ipairs(task:comparisons(rng.new(3, "rows"), objective, 200, 6)) do
      T.eq(#row.responses, 6)
      T.ok(#row.comparisons >= 1 and #row.comparisons <= 15)
      local seen, values = {}, {}
      for i, text in ipairs(row.responses) do
        T.ok(text:find "^ %l" and not seen[text])
        seen[text], values[i] = true, task:score(row.prompt, text)[objective]
      end
      local unequal, used = 0, 0
      for i = 1, 6 do
        for j = i + 1, 6 do
          unequal = unequal + (math.abs(values[i] - values[j]) > 1e-9 and 1 or 0)
        end
      end
      local pairs_seen = {}
      for _, c in ipairs(row.comparisons) do
        local name = math.min(c[1], c[2]) .. "," .. math.max(c[1], c[2])
        T.ok(c[1] ~= c[2] and not pairs_seen[name], "a pair is compared once")
        pairs_seen[name] = true
        local d = values[c[1]] - values[c[2]]
        if math.abs(d) > 1e-9 then
          used, compared = used + 1, compared + 1
          agree, expected = agree + (d > 0 and 1 or 0), expected + 1 / (1 + math.exp(-5 * math.abs(d)))
        end
        local a, b, differ = split(row.responses[c[1]]), split(row.responses[c[2]]), 0
        for slot = 0, 3 do
          differ = differ + (table.concat(a, " ", 6 * slot + 1, math.min(#a, 6 * slot + 6)) ~= table.concat(b, " ", 6 * slot + 1, math.min(#b, 6 * slot + 6)) and 1 or 0)
        end
        one_slot = one_slot + (differ == 1 and 1 or 0)
      end
      T.eq(used, unequal, "every pair of unequal value is compared")
    end
    T.ok(math.abs(agree - expected) / compared < 0.02, objective)
    T.ok(one_slot > 200, one_slot .. " comparisons of answers that differ in one clause")
  end
  T.raises("at least 2 answers", task.comparisons, task, rng.new(0, "rows"), "humor", 5, 1)
end)

T.test("pairs cover every count and every defect", function()
  local task = assistant.new {}
  for objective, kind in next, { humor = "joke", helpful = "tip", harmless = "caution" } do
    local counts, defects, one_slot = {}, {}, 0
    local list = task:pairs(rng.new(11, "pairs"), objective, 2000)
    for _, pair in ipairs(list) do
      for _, which in ipairs { "chosen", "rejected" } do
        local slots = task:describe(pair[which], pair.prompt)
        local n = 0
        for _, k in ipairs(slots) do
          n = n + (k == kind and 1 or 0)
          defects[k] = (defects[k] or 0) + 1
        end
        counts[n] = (counts[n] or 0) + 1
      end
      local a, b, differ = split(pair.chosen), split(pair.rejected), 0
      if #a == 24 and #b == 24 then
        for slot = 0, 3 do
          differ = differ + (table.concat(a, " ", 6 * slot + 1, 6 * slot + 6)
            ~= table.concat(b, " ", 6 * slot + 1, 6 * slot + 6) and 1 or 0)
        end
        one_slot = one_slot + (differ == 1 and 1 or 0)
      end
    end
    for n = 0, 4 do
      T.ok((counts[n] or 0) > 200, ("%s: %d answers with %d"):format(objective, counts[n] or 0, n))
    end
    for _, k in ipairs { "off_topic", "unsafe", "repeat", "malformed", "filler" } do
      T.ok((defects[k] or 0) > 100, objective .. ": " .. k)
    end
    T.ok(one_slot > 500, one_slot .. " pairs differ in one clause")
  end
end)

T.test("the same seed gives the same texts", function()
  local function all(seed)
    local task = assistant.new { seed = seed }
    local parts = task:pretrain_texts(rng.new(seed, "a"), 200)
    for _, e in ipairs(task:sft_examples(rng.new(seed, "b"), 200)) do
      parts[#parts + 1] = e.prompt .. e.response
    end
    for _, e in ipairs(task:pairs(rng.new(seed, "c"), "humor", 200)) do
      parts[#parts + 1] = e.prompt .. e.chosen .. e.rejected
    end
    return table.concat(parts, "\n")
  end
  T.ok(all(5) == all(5))
  T.ok(all(5) ~= all(6))
end)

T.test("options and names are checked", function()
  T.raises("unknown option 'tradeoff' %(did you mean 'trade_off'%?%)", assistant.new,
    { tradeoff = "rising" })
  T.raises("unknown trade_off 'risin' %(did you mean 'rising'%?%)", assistant.new,
    { trade_off = "risin" })
  T.raises("unknown objective 'humour' %(did you mean 'humor'%?%)", assistant.new,
    { objectives = { "humour" } })
  T.raises("unknown objective 'x' %(known: humor, helpful, harmless%)", assistant.new,
    { objectives = { "x" } })
  T.raises("objective 'humor' is listed twice", assistant.new,
    { objectives = { "humor", "humor" } })
  T.raises("objectives must be a list", assistant.new, { objectives = {} })
  T.raises("seed must be an integer, got 0.5", assistant.new, { seed = 0.5 })
  T.raises("a table of options expected, got number", assistant.new, 3)
  T.raises("test_task", function()
    assistant.new { seed = "x" }
  end)
  local task = assistant.new {}
  T.eq(task.objectives, { "humor", "helpful" })
  T.eq(task.trade_off, "rising")
  T.raises("did you mean 'helpful'", task.pairs, task, rng.new(0, "x"), "helpfull", 1)
  T.raises("unknown split 'tests' %(did you mean 'test'%?%)", task.pairs, task, rng.new(0, "x"),
    "humor", 1, "tests")
end)
